//! Objects in bulk: imports that overwrite nothing, exports of one revision; a JSON document a line.

use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};
use onward::Code;
use onward::model::{Labels, Object, Version, limits};
use onward::store::{Export, ExportOptions, Import, ImportRow};
use onward_api::NDJSON_TYPE;
use onward_api::objects::{Imported, Row};

use super::commit::{key, payload};
use super::json;
use super::objects::{labels, spell_exactly};
use crate::call::{Call, ours};
use crate::download::{PIECE_BYTES, Pieces, download};
use crate::json::read;
use crate::refusal::{Answer, Refusal};

/// `POST /v1/objects`
pub(crate) async fn import(mut call: Call) -> Answer {
    call.query(&[])?;
    let essence = call.header(header::CONTENT_TYPE.as_str())?.map(|value| value.split(';').next().unwrap_or_default().trim());
    if essence.is_some_and(|essence| !essence.eq_ignore_ascii_case(NDJSON_TYPE)) {
        return Err(Refusal::new(Code::UnsupportedMediaType, format!("send the rows as {NDJSON_TYPE}")).closing());
    }
    let body = call.bytes(limits::COMMIT_BYTES).await?;
    let mut import = call.onward().store().import()?;
    // Every line is judged before the first row is written.
    let rows: Result<Vec<_>, _> =
        lines(&body).map(|(number, line)| row(&call, &import, line).map_err(|refusal| on_line(refusal, number))).collect();
    let rows = rows?;
    let written = call
        .writing(async {
            for row in rows {
                import.push(row).await?;
            }
            import.finish().await
        })
        .await;
    let done = Imported { created: import.imported().created, existing: import.imported().existing };
    match written {
        Ok(_) => json(StatusCode::OK, &done),
        Err(mut refusal) => {
            // What was created stays: the same lines again are safe.
            if done.created > 0 {
                refusal.problem.effect = onward_api::Effect::Unknown;
            }
            refusal.problem.imported = Some(done);
            Err(refusal)
        }
    }
}

/// The lines that say something, numbered from 1.
fn lines(body: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let numbered = (1..).zip(body.split(|byte| *byte == b'\n'));
    numbered.filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace))
}

fn row(call: &Call, import: &Import, line: &[u8]) -> Result<ImportRow, Refusal> {
    let row: Row = read(line)?;
    let row = ImportRow {
        key: key(call, row.namespace.as_deref(), &row.kind, &row.name)?,
        labels: Labels::read(row.labels.unwrap_or_default().0).map_err(|e| Refusal::from(e).under("/labels"))?,
        expires_at: row
            .expires_at
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(|e: onward::Error| Refusal::from(e).under("/expires_at"))?,
        version: row.version.map(Version::new).transpose().map_err(|e| Refusal::from(e).under("/version"))?,
        payload: payload(row.payload.as_deref(), row.payload_base64.as_deref(), row.content_type.as_deref())?,
    };
    import.check(&row)?;
    Ok(row)
}

/// Names the line, in the text and in front of the pointers.
fn on_line(refusal: Refusal, number: usize) -> Refusal {
    let mut refusal = refusal.under(&format!("/{number}"));
    refusal.problem.detail = format!("line {number}: {}", refusal.problem.detail);
    refusal
}

/// `GET /v1/objects`
pub(crate) async fn export(call: Call) -> Answer {
    let query = call.query(&["namespace", "kind", "prefix", "label"])?;
    let named = |name: &str| query.get(name).map(|word| ours(word).map(|()| word.to_owned())).transpose();
    let options = ExportOptions {
        namespace: named("namespace")?,
        kind: named("kind")?,
        prefix: query.get("prefix").unwrap_or_default().to_owned(),
        selector: query.selector()?,
    };
    let export = call.reading(call.onward().store().export(options)).await?;
    let (revision, epoch) = (export.revision(), export.epoch());
    let mut response = if call.is_head() {
        let mut response = Response::default();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON_TYPE));
        response
    } else {
        download(&call, NDJSON_TYPE, Lines(export))?
    };
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(onward_api::header::REVISION), HeaderValue::from(revision.get()));
    if let Ok(epoch) = HeaderValue::from_str(&epoch.to_string()) {
        headers.insert(HeaderName::from_static(onward_api::header::EPOCH), epoch);
    }
    Ok(response)
}

struct Lines(Export);

impl Pieces for Lines {
    async fn next(&mut self) -> onward::Result<Option<Bytes>> {
        let mut piece = BytesMut::new();
        while piece.len() < PIECE_BYTES {
            let Some(object) = self.0.next().await? else { break };
            let line = serde_json::to_vec(&spell(&object)).map_err(|_| onward::Error::integrity("an object cannot be written as JSON"))?;
            piece.extend_from_slice(&line);
            piece.extend_from_slice(b"\n");
        }
        Ok((!piece.is_empty()).then(|| piece.freeze()))
    }
}

fn spell(object: &Object) -> Row {
    let (payload, payload_base64) = spell_exactly(&object.value);
    Row {
        namespace: Some(object.key.namespace().to_owned()),
        kind: object.key.kind().to_owned(),
        name: object.key.name().to_owned(),
        version: Some(object.meta.version.get()),
        labels: Some(onward_api::Labels(labels(object).into_iter().collect())).filter(|labels| !labels.0.is_empty()),
        expires_at: object.meta.expires_at.map(|end| end.to_string()),
        content_type: Some(object.value.content_type().to_owned()),
        payload,
        payload_base64,
    }
}
