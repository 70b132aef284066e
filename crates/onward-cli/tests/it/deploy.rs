//! The files in `deploy/`: their command lines, keys and paths against the real program.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::serve::configured;
use crate::support::Home;

const CONFIG: &str = "/etc/onward/onward.toml";

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What stands behind the first `KEY=`, `KEY: ` or `KEY `.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().map(str::trim).find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    line.trim_start_matches(['=', ':', ' '])
}

fn list(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Starts a server as a file says, with its own configuration, port and key in the place of those of a machine; it must serve and end.
fn starts(home: &Home, args: &[String], environment: &[(&str, &str)]) {
    let config = configured(home, "onward.toml", "server.shutdown.delay = \"0s\"\n");
    let mut at = String::new();
    let args: Vec<&str> = args
        .iter()
        .map(|arg| match arg.as_str() {
            CONFIG => config.as_str(),
            address if address.ends_with(":7337") => {
                at = address.replace("0.0.0.0:7337", "127.0.0.1:0");
                "127.0.0.1:0"
            }
            other => other,
        })
        .collect();
    let mut command = home.command(&args);
    let key = home.file("audit.key", "0123456789abcdef".repeat(4));
    for (name, _) in environment {
        assert!(name.ends_with("_FILE"), "{name}");
        command.env(name, &key);
    }
    let mut server = home.start(command.stderr(Stdio::null()));
    let ready = server.line();
    assert!(ready.contains("serves http://127.0.0.1:"), "{args:?}: {ready}");
    server.signal(Signal::TERM);
    assert_eq!(server.code(), Some(0), "{args:?}");
}

/// `45s` and the like.
fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.trim_end_matches('s').parse().unwrap_or_else(|e| panic!("{e}: {text}")))
}

#[test]
fn the_example_configuration_is_taken_also_with_its_comments_taken_off() {
    let home = Home::bare();
    let text = read("onward.toml");
    let plain = home.file("onward.toml", &text);
    home.expect(0, &["config", "check", "--offline", "--config", &plain]);
    // What is commented out is there to be used: it has to be right too.
    let whole: String = text
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ") || rest.starts_with('[')).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n");
    assert!(whole.lines().any(|line| line.starts_with("cert_file")));
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let whole = whole
        .replace("/etc/onward/tls.crt", &home.file("tls.crt", cert.pem()))
        .replace("/etc/onward/tls.key", &home.file("tls.key", key.serialize_pem()));
    let whole = home.file("whole.toml", whole);
    home.expect(0, &["config", "check", "--offline", "--config", &whole]);
}

#[test]
fn the_unit_for_systemd_starts_a_server_and_waits_long_enough_for_its_end() {
    let unit = read("onward.service");
    let mut words = value(&unit, "ExecStart").split(' ').map(str::to_owned);
    assert_eq!(words.next().as_deref(), Some("/usr/local/bin/onward"));
    let (key, place) = value(&unit, "Environment").split_once('=').unwrap();
    assert_eq!((place, value(&unit, "LoadCredential")), ("%d/audit.key", "audit.key:/etc/onward/audit.key"));
    starts(&Home::bare(), &words.collect::<Vec<_>>(), &[(key, place)]);
    // The server tells that it is ready and lives (tested with the server); the unit has to listen.
    assert_eq!((value(&unit, "Type"), value(&unit, "NotifyAccess"), value(&unit, "RestartPreventExitStatus")), ("notify", "main", "2"));
    assert!(seconds(value(&unit, "WatchdogSec")) >= Duration::from_secs(20), "twice the time after which a writer counts as stuck");
    assert!(seconds(value(&unit, "TimeoutStopSec")) > Duration::from_secs(30), "server.shutdown.total");
    assert_eq!((value(&unit, "StateDirectory"), value(&unit, "WorkingDirectory")), ("onward", "%S/onward"));
}

#[test]
fn the_image_and_the_compose_file_start_a_server() {
    let (image, compose) = (read("Dockerfile"), read("compose.yaml"));
    assert_eq!(list(value(&image, "ENTRYPOINT")), ["/usr/local/bin/onward"]);
    assert!(image.contains("COPY --from=build /out/onward /usr/local/bin/onward\n") && image.contains("-p onward-cli"));
    assert!(image.contains(&format!("COPY deploy/onward.toml {CONFIG}\n")));
    assert_eq!((value(&image, "USER"), value(&image, "WORKDIR /data")), ("65532:65532", ""));
    starts(&Home::bare(), &list(value(&image, "CMD")), &[]);
    assert_eq!(value(&compose, "user"), "\"65532:65532\"");
    assert_eq!(value(&compose, "ONWARD__AUDIT__KEY_FILE"), "/run/secrets/audit_key");
    assert!(list(value(&compose, "volumes")).contains(&format!("./onward.toml:{CONFIG}:ro")));
    assert_eq!(list(value(&compose, "ports")), ["127.0.0.1:7337:7337"], "plaintext stays on the host");
    assert_eq!(value(&compose, "read_only"), "true");
    assert!(seconds(value(&compose, "stop_grace_period")) > Duration::from_secs(30), "server.shutdown.total");
    starts(&Home::bare(), &list(value(&compose, "command")), &[("ONWARD__AUDIT__KEY_FILE", "")]);
}
