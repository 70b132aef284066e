//! `patch`: a change that the server applies to the newest state.

use clap::{ArgGroup, Args};
use onward_api::client::Request;
use onward_api::{MERGE_TYPE, PATCH_TYPE};
use serde_json::{Value, json};

use super::Place;
use super::write::{Common, Extras, input, send};
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::target::Target;

/// Changes an object.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args(["compare", "set", "add", "append", "remove", "merge", "steps"]))]
pub(crate) struct Patch {
    #[command(flatten)]
    place: Place,
    /// Go on only if this value is there; comparisons come first
    #[arg(long, value_name = "POINTER=VALUE")]
    compare: Vec<String>,
    /// Set a value
    #[arg(long, value_name = "POINTER=VALUE")]
    set: Vec<String>,
    /// Add to an integer
    #[arg(long, value_name = "POINTER=INTEGER", allow_hyphen_values = true)]
    add: Vec<String>,
    /// Append to an array
    #[arg(long, value_name = "POINTER=VALUE")]
    append: Vec<String>,
    /// Remove what is there
    #[arg(long, value_name = "POINTER")]
    remove: Vec<String>,
    /// The file with a merge patch (RFC 7396); - for stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["compare", "set", "add", "append", "remove"])]
    merge: Option<String>,
    /// The file with steps in JSON, in any order; - for stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["compare", "set", "add", "append", "remove", "merge"])]
    steps: Option<String>,
    /// Only if the object still is at this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    #[command(flatten)]
    extras: Extras,
    #[command(flatten)]
    common: Common,
}

impl Patch {
    pub(super) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let request = self.extras.add(Request::patch(self.place.path()?))?;
        let request = match self.if_version {
            Some(version) => request.header("if-match", &format!("\"{version}\"")),
            None => request,
        };
        let request = match (&self.merge, &self.steps) {
            (Some(file), _) => request.body(MERGE_TYPE, input(file)?),
            (_, Some(file)) => request.body(PATCH_TYPE, input(file)?),
            _ => request.body(PATCH_TYPE, Value::Array(self.steps()?).to_string().into_bytes()),
        };
        send(request, &self.place, &self.common, target, out).await
    }

    fn steps(&self) -> Result<Vec<Value>> {
        let mut steps = Vec::new();
        for (verb, changes) in [("compare", &self.compare), ("set", &self.set), ("add", &self.add), ("append", &self.append)] {
            for change in changes {
                let (pointer, text) = change
                    .split_once('=')
                    .ok_or_else(|| Failure::usage(format_args!("--{verb} takes POINTER=VALUE, such as /state=open")))?;
                // What is no JSON is text, so that words need no quotes.
                let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
                steps.push(json!({ verb: pointer, "value": value }));
            }
        }
        steps.extend(self.remove.iter().map(|pointer| json!({ "remove": pointer })));
        Ok(steps)
    }
}
