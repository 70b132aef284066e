//! `/docs`: the description of the API as one page for people, made from the same bytes as `/openapi.json`.
//!
//! No script, nothing from elsewhere: the page's policy forbids both.

use std::fmt::{self, Write as _};
use std::sync::LazyLock;

use http::HeaderValue;
use onward::Code;
use serde_json::Value;
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("docs.css");
/// The words of a path item that are operations, in the order of the page.
const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

static PAGE: LazyLock<String> = LazyLock::new(|| {
    let api = serde_json::from_str(onward_api::OPENAPI).unwrap_or_default();
    render(&api)
});
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = onward_api::base64::encode(&Sha256::digest(STYLE));
    let policy = format!("default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// Returns the page.
pub(crate) fn page() -> &'static str {
    &PAGE
}

/// Returns what the page may load: its own style sheet, known by its hash, and nothing else.
pub(crate) fn policy() -> HeaderValue {
    POLICY.clone()
}

/// Text, with what HTML would read in it written out, and `…` as code.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut code = false;
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '`' => {
                    f.write_str(if code { "</code>" } else { "<code>" })?;
                    code = !code;
                }
                c => f.write_char(c)?,
            }
        }
        if code { f.write_str("</code>") } else { Ok(()) }
    }
}

fn render(api: &Value) -> String {
    let mut out = String::with_capacity(128 << 10);
    // Writing to a String cannot fail.
    let _ = write(&mut out, api);
    out
}

fn write(out: &mut String, api: &Value) -> fmt::Result {
    let title = Text(text(&api["info"], "title"));
    write!(out, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} API</title>")?;
    write!(out, "<meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>")?;
    let groups = groups(api);
    write!(out, "<nav aria-label=\"Contents\"><p><a href=\"#top\">{title} API</a></p>")?;
    for (name, operations) in &groups {
        write!(out, "<a href=\"#{0}\">{0}</a><ul>", Text(name))?;
        for Operation { method, path, id, .. } in operations {
            write!(out, "<li><a href=\"#{}\"><b>{}</b> {}</a></li>", Text(id), method.to_ascii_uppercase(), Text(path))?;
        }
        out.push_str("</ul>");
    }
    out.push_str("<a href=\"#codes\">codes</a><br><a href=\"#schemas\">schemas</a></nav>");
    write!(out, "<main id=\"top\"><h1>{title} API</h1><p>{}</p>", Text(text(&api["info"], "description")))?;
    out.push_str(
        "<p>For machines: <a href=\"/openapi.json\">openapi.json</a>. Requests carry <code>Authorization: Bearer TOKEN</code>.</p>",
    );
    for (name, operations) in &groups {
        write!(out, "<h2 id=\"{0}\">{0}</h2>", Text(name))?;
        for operation in operations {
            operation.write(out, api)?;
        }
    }
    codes(out)?;
    out.push_str("<h2 id=\"schemas\">schemas</h2>");
    for (name, schema) in members(&api["components"]["schemas"]) {
        write!(out, "<section id=\"schema-{0}\"><h3>{0}</h3><p>{1}</p>", Text(name), Text(text(schema, "description")))?;
        properties(out, schema)?;
        out.push_str("</section>");
    }
    out.push_str("</main></body></html>\n");
    Ok(())
}

struct Operation<'a> {
    method: &'static str,
    path: &'a str,
    id: &'a str,
    item: &'a Value,
    operation: &'a Value,
}

/// The operations by the word behind `/v1/`; the others are the server's own.
fn groups(api: &Value) -> Vec<(&str, Vec<Operation<'_>>)> {
    let mut groups: Vec<(&str, Vec<Operation<'_>>)> = Vec::new();
    for (path, item) in members(&api["paths"]) {
        let name = path.strip_prefix("/v1/").map_or("server", |rest| rest.split('/').next().unwrap_or_default());
        for method in METHODS {
            let Some(operation) = item.get(method) else { continue };
            let operation = Operation { method, path, id: text(operation, "operationId"), item, operation };
            match groups.iter_mut().find(|(known, _)| *known == name) {
                Some((_, operations)) => operations.push(operation),
                None => groups.push((name, vec![operation])),
            }
        }
    }
    groups
}

impl Operation<'_> {
    fn write(&self, out: &mut String, api: &Value) -> fmt::Result {
        let Self { method, path, id, item, operation } = self;
        write!(out, "<section id=\"{}\"><h3>{} {}</h3>", Text(id), method.to_ascii_uppercase(), Text(path))?;
        write!(out, "<p>{} {}</p>", Text(text(operation, "summary")), Text(text(operation, "description")))?;
        if operation["security"].as_array().is_some_and(Vec::is_empty) {
            out.push_str("<p>Open: asks for no token.</p>");
        }
        let parameters: Vec<&Value> = [item, operation]
            .into_iter()
            .flat_map(|of| of["parameters"].as_array().into_iter().flatten())
            .map(|p| follow(p, api))
            .collect();
        if !parameters.is_empty() {
            out.push_str("<h4>Parameters</h4><table><tr><th>name</th><th>in</th><th>type</th><th></th></tr>");
            for parameter in parameters {
                let needed = if parameter["required"] == true { "Required. " } else { "" };
                let many = if parameter["x-onward-multi-segment"] == true { "May have slashes. " } else { "" };
                let (name, place) = (Text(text(parameter, "name")), Text(text(parameter, "in")));
                write!(out, "<tr><td><code>{name}</code></td><td>{place}</td><td>")?;
                kind(out, &parameter["schema"])?;
                write!(out, "</td><td>{needed}{many}{}</td></tr>", Text(text(parameter, "description")))?;
            }
            out.push_str("</table>");
        }
        let body = &operation["requestBody"];
        if !body.is_null() {
            write!(out, "<h4>Body</h4><p>{}</p>", Text(text(body, "description")))?;
            content(out, body)?;
        }
        out.push_str("<h4>Answers</h4><table>");
        for (status, response) in members(&operation["responses"]) {
            let response = follow(response, api);
            let status = if status == "default" { "else" } else { status };
            write!(out, "<tr><td><code>{}</code></td><td>{} ", Text(status), Text(text(response, "description")))?;
            content(out, response)?;
            let headers: Vec<&str> = members(&response["headers"]).map(|(name, _)| name.as_str()).collect();
            if !headers.is_empty() {
                write!(out, "Headers: {}", Text(&format!("`{}`", headers.join("`, `"))))?;
            }
            out.push_str("</td></tr>");
        }
        out.push_str("</table></section>");
        Ok(())
    }
}

fn content(out: &mut String, of: &Value) -> fmt::Result {
    for (media, content) in members(&of["content"]) {
        write!(out, "<code>{}</code>: ", Text(media))?;
        kind(out, &content["schema"])?;
        out.push_str("<br>");
    }
    Ok(())
}

fn codes(out: &mut String) -> fmt::Result {
    out.push_str("<h2 id=\"codes\">codes</h2><p>Every refusal is <code>application/problem+json</code> with one of these.</p>");
    out.push_str("<table><tr><th>code</th><th>status</th><th>send it again?</th></tr>");
    for code in Code::ALL {
        let again = if code.retryable() { "after <code>retry_after_ms</code>" } else { "no" };
        write!(out, "<tr id=\"code-{0}\"><td><code>{0}</code></td><td>{1}</td><td>{again}</td></tr>", code.as_str(), code.status())?;
    }
    out.push_str("</table>");
    Ok(())
}

/// Writes what a value is, in few words.
fn kind(out: &mut String, schema: &Value) -> fmt::Result {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/components/schemas/")) {
        return write!(out, "<a href=\"#schema-{0}\">{0}</a>", Text(name));
    }
    if let Some(any) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        for (index, one) in any.iter().enumerate() {
            out.push_str(if index > 0 { " or " } else { "" });
            kind(out, one)?;
        }
        return Ok(());
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        return write!(out, "{}", Text(&format!("`{}`", values.join("`, `"))));
    }
    match &schema["type"] {
        Value::String(word) if word == "array" => {
            out.push_str("list of ");
            kind(out, &schema["items"])?;
        }
        Value::String(word) => write!(out, "{}", Text(word))?,
        Value::Array(words) => {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            write!(out, "{}", Text(&words.join(" or ")))?;
        }
        _ if schema["const"].is_null() => out.push_str("any"),
        _ => write!(out, "<code>{}</code>", Text(&schema["const"].to_string()))?,
    }
    for (word, sign) in [
        ("minimum", "≥"),
        ("minItems", "≥"),
        ("minLength", "≥"),
        ("maximum", "≤"),
        ("maxItems", "≤"),
        ("maxLength", "≤"),
        ("default", "default"),
    ] {
        if let Some(bound) = schema.get(word) {
            write!(out, ", {sign} {}", Text(&bound.to_string()))?;
        }
    }
    Ok(())
}

/// Writes the members of an object, those of objects inside it below their own.
fn properties(out: &mut String, schema: &Value) -> fmt::Result {
    let inside = if schema["type"] == "array" { &schema["items"] } else { schema };
    if inside["properties"].is_null() {
        out.push_str("<p>");
        kind(out, schema)?;
        out.push_str("</p>");
        return Ok(());
    }
    out.push_str("<table>");
    rows(out, inside, "")?;
    out.push_str("</table>");
    Ok(())
}

fn rows(out: &mut String, schema: &Value, above: &str) -> fmt::Result {
    let required = |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
    for (name, property) in members(&schema["properties"]) {
        let needed = if required(name) { "" } else { "optional. " };
        write!(out, "<tr><td><code>{above}{}</code></td><td>", Text(name))?;
        kind(out, property)?;
        write!(out, "</td><td>{needed}{}</td></tr>", Text(text(property, "description")))?;
        let (inner, sign) = if property["type"] == "array" { (&property["items"], "[].") } else { (property, ".") };
        if inner["properties"].is_object() {
            rows(out, inner, &format!("{above}{}{sign}", Text(name)))?;
        }
    }
    Ok(())
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Follows a reference, once.
fn follow<'a>(value: &'a Value, api: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().and_then(|reference| api.pointer(reference.trim_start_matches('#')));
    target.unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_html_would_read_is_written_out() {
        let evil = "<script>alert(1)</script>\"'&";
        let api = json!({
            "info": {"title": evil, "description": evil},
            "paths": {format!("/v1/{evil}"): {"get": {
                "operationId": evil, "summary": evil,
                "parameters": [{"name": evil, "in": evil, "description": evil, "schema": {"type": evil, "default": evil}}],
                "requestBody": {"description": evil, "content": {evil: {"schema": {"enum": [evil]}}}},
                "responses": {evil: {"description": evil, "headers": {evil: {}}}},
            }}},
            "components": {"schemas": {evil: {"description": evil, "properties": {evil: {"const": evil, "properties": {evil: {"$ref": format!("#/components/schemas/{evil}")}}}}}}},
        });
        let page = render(&api);
        assert!(!page.contains("<script") && !page.contains("\"'&"), "{page}");
        assert!(page.contains("&lt;script&gt;"));
    }
}
