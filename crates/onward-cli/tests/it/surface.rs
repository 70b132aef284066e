//! What the binary says about itself: help, completions, manual pages, and complaints that a machine can read.

use crate::support::Home;

#[test]
fn a_wrong_command_line_is_a_problem_where_json_is_asked_for() {
    let home = Home::bare();
    for args in [
        &["object", "put", "project/42", "-", "--create", "--iff", "-o", "json"][..],
        &["-ojson", "object", "put"],
        &["--output=jsonl", "objekt"],
        &["lock", "run", "nightly", "--ttl", "5", "-o", "json", "--", "true"],
    ] {
        let said = home.run(args);
        assert_eq!((said.code, said.out.is_empty()), (Some(2), true), "{args:?}: {said:?}");
        let problem: serde_json::Value = serde_json::from_str(said.err.trim()).unwrap_or_else(|e| panic!("{e}: {said:?}"));
        assert_eq!((&problem["code"], &problem["effect"]), (&"invalid_request".into(), &"not_applied".into()), "{said:?}");
        assert!(!problem["detail"].as_str().unwrap().contains('\n'), "{said:?}");
    }
    // What follows `--` belongs to the child's own command line.
    let said = home.run(&["lock", "run", "nightly", "--ttl", "5", "--", "tool", "-o", "json"]);
    assert!(said.code == Some(2) && said.err.starts_with("error: "), "{said:?}");
}

#[test]
fn a_mistyped_command_is_answered_with_the_nearest_one() {
    let said = Home::bare().run(&["objekt", "list"]);
    assert!(said.code == Some(2) && said.err.contains("object"), "{said:?}");
    let said = Home::bare().run(&["help", "lock", "rum"]);
    assert!(said.code == Some(2) && said.err.contains("run") && said.err.contains("exit-codes"), "{said:?}");
}

#[test]
fn help_explains_commands_and_topics_on_stdout() {
    let home = Home::bare();
    let by_flag = home.expect(0, &["lock", "run", "--help"]);
    assert!(by_flag.contains("Examples:") && by_flag.contains("--ttl"), "{by_flag}");
    assert!(home.expect(0, &["help", "lock", "run"]).contains("--ttl"));
    let codes = home.expect(0, &["help", "exit-codes"]);
    assert!(codes.contains("  6  the lease is lost") && codes.contains("fenced lease_lost") && codes.contains(" 75  "), "{codes}");
    assert!(home.expect(0, &["help", "keys"]).contains("base64url"));
    assert!(home.expect(0, &["help"]).contains("onward prove all"));
}

#[test]
fn completions_know_every_command_that_is_shown() {
    let home = Home::bare();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.expect(0, &["completions", shell]);
        for word in ["lock", "object", "invalidate", "if-version"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    let bash = home.file("onward.bash", home.expect(0, &["completions", "bash"]));
    let said = home.other("bash", &["-n", &bash]);
    assert_eq!(said.code, Some(0), "{said:?}");
    home.expect(2, &["completions", "tcsh2"]);
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let home = Home::bare();
    let folder = home.path("man");
    home.expect(0, &["man", &folder.display().to_string(), "-o", "json"]);
    for page in ["onward", "onward-dev", "onward-lock-run", "onward-object-put", "onward-audit-verify"] {
        let text = std::fs::read_to_string(folder.join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".TH") && text.contains("Exit codes"), "{page}: {text}");
    }
    assert!(!folder.join("onward-prove-holder.1").exists());
    assert!(home.expect(0, &["man"]).contains(".SH NAME"));
    let file = home.file("taken", "");
    home.expect(1, &["man", &format!("{file}/man")]);
}
