//! `verify.py`, asked again and again.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

pub(super) const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/audit/verify/verify.py");

/// One Python process that runs `verify.py` again and again: starting one for each attack takes longer than all the rest.
pub(in crate::audit) struct Auditor {
    child: Child,
    answers: Lines<BufReader<ChildStdout>>,
}

const AUDITOR: &str = r#"
import contextlib, importlib.util, io, json, sys
spec = importlib.util.spec_from_file_location("verify", sys.argv[1])
verify = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verify)
for line in sys.stdin:
    sys.argv = ["verify.py", *json.loads(line)]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = verify.main()
    print(json.dumps([code, out.getvalue()]), flush=True)
"#;

impl Auditor {
    pub(in crate::audit) fn new() -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", AUDITOR, SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 is needed for this test");
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, answers }
    }

    pub(in crate::audit) fn ask(&mut self, arguments: &[String]) -> (u8, String) {
        let line = serde_json::to_string(arguments).unwrap();
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        serde_json::from_str(&self.answers.next().unwrap().unwrap()).unwrap()
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        // At the end of its input it ends.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Runs `verify.py` once, as an outsider does.
pub(super) fn python(database: &Path, arguments: &[String]) -> Output {
    Command::new("python3").arg(SCRIPT).arg(database).args(arguments).output().expect("python3 is needed for this test")
}
