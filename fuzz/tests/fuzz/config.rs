//! The configuration file: read, or refused with a line for each problem, and never with a secret in it.

use onward_server::{Configuration, Sources};

use crate::engine::fuzz;

#[test]
fn a_configuration_is_taken_or_refused_with_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("onward.toml");
    fuzz("config", |input| {
        std::fs::write(&file, input).unwrap();
        match Configuration::load(&Sources::none().with_file(file.clone())) {
            Ok(configuration) => assert!(configuration.file().is_some()),
            Err(error) => {
                assert!(!error.problems().is_empty() && error.problems().iter().all(|problem| !problem.trim().is_empty()));
                // The name of a key that is unknown may be said; a value may be secret.
                let is_value = |line: &str| line.split('=').next().is_none_or(|name| !name.contains("hunter2"));
                let only_values = std::str::from_utf8(input).is_ok_and(|text| text.lines().all(is_value));
                assert!(!only_values || !error.to_string().contains("hunter2"), "a secret in a message");
            }
        }
    });
}
