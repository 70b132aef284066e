//! Temporary: until the command line lands.

mod prove;
mod wait;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = match text.as_slice() {
        ["prove-holder", url, name, rest @ ..] => {
            prove::hold(prove::Holder { url: (*url).to_owned(), name: (*name).to_owned(), fenced: rest == ["--fenced"] }).await
        }
        ["prove", scenario, rest @ ..] => {
            let Ok(choice) = scenario.parse() else { return 2.into() };
            let after = |flag: &str| {
                rest.iter().position(|arg| *arg == flag).and_then(|at| rest.get(at + 1)).and_then(|text| text.parse::<u64>().ok())
            };
            prove::run(prove::Options {
                choice,
                rounds: after("--rounds"),
                seed: after("--seed").and_then(|seed| u32::try_from(seed).ok()),
                format: if rest.contains(&"json") { prove::Format::Json } else { prove::Format::Table },
                protection: if rest.contains(&"--remove-protection") { prove::Protection::Removed } else { prove::Protection::On },
            })
            .await
        }
        _ => 2,
    };
    code.into()
}
