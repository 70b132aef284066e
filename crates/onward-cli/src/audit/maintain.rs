//! Maintenance by hand, or from cron: what is due by the retention is done.

use clap::Args;
use onward_api::client::Request;
use onward_api::header;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::config::{Place, load};
use crate::failure::{Failure, Result};
use crate::local;
use crate::output::Out;
use crate::pages::{Columns, Writer};
use crate::target::{Otherwise, Target, is_server};

use super::segments::LONG;

/// How the command ends.
pub(super) const EXIT_CODES: &str = "\
The retention stands in the configuration, audit.seal_after and the keys below it: the server's, or for an engine that is opened here
the file and the environment that `onward config show` shows.

Exit codes: 0 nothing is left to do; 1 a step failed, which stopped no other; 2 usage; 5 another process maintains; 8 unreachable";

const COLUMNS: Columns = &[("CHAIN", "chain"), ("STAGE", "stage"), ("FROM", "from"), ("TO", "to"), ("RESULT", "result"), ("WHY", "why")];

/// Maintains.
#[derive(Args, Debug)]
pub(crate) struct Maintain {
    /// Why; kept in the chains themselves
    #[arg(long, value_name = "TEXT", default_value = "retention")]
    reason: String,
    /// Only tell what is due
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Deserialize)]
struct Tick {
    steps: Vec<Box<RawValue>>,
    more: bool,
    left: u64,
}

#[derive(Deserialize)]
struct Step {
    result: Became,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Became {
    Done,
    Planned,
    Waits,
    Failed,
}

impl Maintain {
    /// Asks for one tick after the other until nothing is left that could be done.
    pub(super) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let client = match &target.url {
            // What is due stands in the configuration.
            Some(url) if !is_server(url) => local::open_configured(url, &load(&self.place.sources())?).await?.with_timeout(target.timeout),
            _ => target.client(Otherwise::Refuse).await?,
        };
        let mut writer = Writer::new(COLUMNS, out);
        let mut progress = out.progress("steps");
        let (mut done, mut failed, mut afresh) = (0, false, true);
        loop {
            let request = Request::post("admin/maintain").text_header(header::REASON, &self.reason);
            let asked = json!({"dry_run": self.dry_run, "afresh": afresh});
            let Tick { steps, more, left } = client.call(request.json(&asked).timeout(LONG)).await?.json()?;
            let mut moved = false;
            for step in &steps {
                let Step { result } = serde_json::from_str(step.get()).map_err(|_| Failure::usage("the server speaks another language"))?;
                failed |= result == Became::Failed;
                // What failed rests, longer each time: so this ends.
                moved |= matches!(result, Became::Done | Became::Failed);
            }
            done += steps.len() as u64;
            progress.at(done, done + left);
            writer.items(&steps)?;
            afresh = false;
            if !more || !moved {
                break;
            }
        }
        drop(progress);
        writer.end(&Value::Null)?;
        if failed { Err(Failure::Exit(1)) } else { Ok(()) }
    }
}
