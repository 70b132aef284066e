//! The files of a bucket: written once, settled by reading, and nothing told that is secret.

use std::error::Error as _;

use super::*;
use crate::testing::archive_faults::{ArchiveFault, ArchiveFaults, faulty};
use crate::testing::servers::{Bucket, Spoilt};
use crate::{Code, Effect};

fn open(bucket: &Bucket) -> Archive {
    Archive::open_with(&bucket.url(), Bucket::environment()).unwrap()
}

async fn read(archive: &Archive, name: &str) -> Option<Vec<u8>> {
    let (archive, name, runtime) = (archive.clone(), name.to_owned(), Handle::current());
    let read = move || match archive.find(&name, &runtime).unwrap() {
        Filed::There(_, mut input) => {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes).unwrap();
            Some(bytes)
        }
        _ => None,
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// Everything that an error can show.
fn shown(error: &Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(" {inner} {inner:?}");
        cause = inner.source();
    }
    text
}

#[tokio::test]
async fn a_file_is_written_once_listed_read_and_deleted() {
    let bucket = Bucket::start().await;
    let archive = open(&bucket);
    for name in ["a/1", "a/2", "a/3", "ab/4"] {
        archive.put(name, name.as_bytes().to_vec()).await.unwrap();
    }
    let refused = archive.put("a/1", &b"another"[..]).await.unwrap_err();
    assert_eq!((refused.code(), refused.effect()), (Code::Unavailable, Effect::NotApplied), "{refused}");
    assert_eq!(read(&archive, "a/1").await.unwrap(), b"a/1");
    assert_eq!(archive.list("a").await.unwrap(), ["a/1", "a/2", "a/3"]);
    archive.delete("a/2").await.unwrap();
    archive.delete("a/2").await.unwrap();
    assert_eq!(archive.list("a").await.unwrap(), ["a/1", "a/3"]);
    assert_eq!(read(&archive, "a/2").await, None);
    assert_eq!(bucket.files().keys().collect::<Vec<_>>(), ["a/1", "a/3", "ab/4", MARK]);
    let writes: Vec<String> = bucket.requests().into_iter().filter(|request| request.starts_with("PUT")).collect();
    assert!(writes.len() >= 5 && writes.iter().all(|write| write.ends_with(" if new")), "{writes:?}");
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let bucket = Bucket::start().await;
    bucket.spoil(Spoilt { ignores_conditions: true, ..Spoilt::default() });
    let archive = open(&bucket);
    for _ in 0..2 {
        assert_eq!(archive.put("a/1", &b"1"[..]).await.unwrap_err().kind(), Kind::Unsupported);
        let mut long = archive.begin("a/2".to_owned());
        assert_eq!(long.write(vec![0; PART + 1]).await.unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(archive.look().await.unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(archive.check().await.unwrap().grade, Grade::Failure);
    }
    assert_eq!(bucket.files().keys().collect::<Vec<_>>(), [MARK], "nothing else was written");
    // It is asked again, since somebody may have mended it.
    bucket.spoil(Spoilt::default());
    archive.put("a/1", &b"1"[..]).await.unwrap();
    assert_eq!(archive.check().await.unwrap().grade, Grade::Fine);
}

#[tokio::test]
async fn a_store_is_asked_once_a_process() {
    let bucket = Bucket::start().await;
    let asked = |bucket: &Bucket| bucket.requests().iter().filter(|request| request.contains(MARK)).count();
    let archive = open(&bucket);
    archive.put("a/1", &b"1"[..]).await.unwrap();
    archive.clone().put("a/2", &b"2"[..]).await.unwrap();
    assert_eq!(asked(&bucket), 2, "to write the mark, and to see that it cannot be written again");
    open(&bucket).put("a/3", &b"3"[..]).await.unwrap();
    assert_eq!(asked(&bucket), 1);
}

#[tokio::test]
async fn an_object_stored_although_the_store_said_error_is_settled() {
    let bucket = Bucket::start().await;
    let archive = open(&bucket);
    archive.prove().await.unwrap();
    // The second try is told that the file is there; then no try is told the truth at all.
    for (name, failures) in [("a/1", 1), ("a/2", 4)] {
        bucket.spoil(Spoilt { fails_after_keeping: failures, ..Spoilt::default() });
        archive.put(name, name.as_bytes().to_vec()).await.unwrap();
    }
    // A file in parts.
    let long = crate::random::bytes::<64>().repeat(PART / 32);
    bucket.spoil(Spoilt { fails_after_keeping: 1, ..Spoilt::default() });
    let mut upload = archive.begin("a/3".to_owned());
    for piece in long.chunks(PART / 3) {
        upload.write(piece.to_vec()).await.unwrap();
    }
    upload.end().await.unwrap();
    assert_eq!(read(&archive, "a/3").await.unwrap(), long);
    // What somebody else wrote under the name is not ours.
    bucket.set("a/4", Some(Bytes::from_static(b"another")));
    assert!(archive.put("a/4", &b"a/4"[..]).await.is_err());
}

#[tokio::test]
async fn a_file_in_parts_is_settled_by_what_is_there() {
    // Begin, two parts, end: the last call fails, before or after it was done.
    const END: u64 = 4;
    for (fault, there, good) in
        [(ArchiveFault::Lost, None, true), (ArchiveFault::Refused, None, false), (ArchiveFault::Refused, Some("of another length"), false)]
    {
        let faults = ArchiveFaults::default();
        let (archive, files) = faulty(&faults);
        if let Some(text) = there {
            files.put(&Path::from("a/1"), text.into()).await.unwrap();
        }
        faults.at(END, fault);
        let mut upload = archive.begin("a/1".to_owned());
        upload.write(vec![7; PART + 1]).await.unwrap();
        let ended = upload.end().await;
        assert!(faults.calm() && ended.is_ok() == good, "{fault:?} {there:?}: {ended:?}");
    }
}

#[tokio::test]
async fn a_long_file_goes_in_parts_and_one_that_is_given_up_leaves_none() {
    let bucket = Bucket::start().await;
    let archive = open(&bucket);
    let long = crate::random::bytes::<64>().repeat(PART / 64 * 2 + 5);
    for ends in [true, false] {
        let mut upload = archive.begin(format!("a/{ends}"));
        for piece in long.chunks(PART / 2 + 7) {
            upload.write(piece.to_vec()).await.unwrap();
        }
        assert_eq!(bucket.open_uploads(), 1);
        if ends {
            upload.end().await.unwrap()
        } else {
            upload.abort().await
        }
        assert_eq!(bucket.open_uploads(), 0);
    }
    assert_eq!(read(&archive, "a/true").await.unwrap(), long);
    assert_eq!(read(&archive, "a/false").await, None);
}

#[tokio::test]
async fn what_a_store_refuses_is_told_without_a_secret() {
    let bucket = Bucket::start().await;
    bucket.spoil(Spoilt { refuses: true, ..Spoilt::default() });
    let archive = open(&bucket);
    let refused = archive.put("a/1", &b"1"[..]).await.unwrap_err();
    assert_eq!(refused.message(), "the archive cannot be written: 403 Forbidden: SignatureDoesNotMatch");
    let listed = archive.list("a").await.unwrap_err();
    for text in [shown(&refused), shown(&listed), format!("{archive:?}"), format!("{:?}", archive.check().await)] {
        assert!(!Bucket::shows_secrets(&text), "{text}");
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_told_of_and_waited_for_no_longer_than_that() {
    let bucket = Bucket::start().await;
    let archive = open(&bucket);
    bucket.spoil(Spoilt { is_silent: true, ..Spoilt::default() });
    let silent = archive.ask_within(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!((silent.kind(), silent.message()), (Kind::Backend, "the archive does not answer"));
    let gone = bucket.url();
    drop(bucket);
    let finding = Archive::open_with(&gone, Bucket::environment()).unwrap().check().await.unwrap();
    assert_eq!(finding.grade, Grade::Warning, "{finding:?}");
}

#[test]
fn a_url_that_does_not_go_is_refused_and_never_shown() {
    let none = || Vec::<(String, String)>::new();
    for (url, says) in [
        ("s3:bucket", "s3://BUCKET"),
        ("s3://", "3 to 63"),
        ("s3://Bucket/a", "3 to 63"),
        ("s3://key:hush@bucket/a", "credentials"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/a/../b", "prefix"),
        ("s3://bucket?secret=hush", "may say"),
        ("s3://bucket?insecure=yes", "may say"),
        ("s3://bucket?endpoint=minio:9000", "https://HOST"),
        ("s3://bucket?endpoint=http://127.0.0.1:1", "insecure=true"),
        ("http://bucket", "file:PATH or s3://"),
        ("file:", "file:PATH"),
    ] {
        let refused = Archive::open_with(url, none()).unwrap_err();
        assert!(refused.kind() == Kind::Invalid && refused.message().contains(says), "{url}: {refused}");
        assert!(!refused.message().contains("hush"), "{url}");
    }
    assert!(Archive::read("memory:").is_err(), "memory is no place to keep things");
    let variable = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let plain = variable("AWS_ENDPOINT_URL", "http://minio:9000");
    assert_eq!(Archive::open_with("s3://bucket", plain.clone()).unwrap_err().kind(), Kind::Invalid);
    let allowed = [plain, variable("AWS_ALLOW_HTTP", "true")].concat();
    assert_eq!(format!("{:?}", Archive::open_with("s3://bucket/audit", allowed).unwrap()), "Archive(PrefixObjectStore(audit))");
    let half = Archive::open_with("s3://bucket", variable("AWS_ACCESS_KEY_ID", "id")).unwrap_err();
    assert!(half.message().contains("go together"), "{half}");
}
