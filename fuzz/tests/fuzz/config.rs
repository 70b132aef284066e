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
                assert!(!error.to_string().contains("hunter2"), "a secret in a message");
            }
        }
    });
}
