//! Bad input gets a typed error before anything is asked (C10).

use std::time::Duration;

use super::{Harness, TTL, key, once};
use crate::lock::{LockOptions, Locks, LocksConfig, Owner, Reason, Release};
use crate::model::{FencingToken, LockKey};
use crate::{Code, Error, Kind};

const DAY: Duration = Duration::from_secs(24 * 3_600);
const NANO: Duration = Duration::from_nanos(1);

fn invalid(error: &Error, code: Code, names: &str) {
    assert_eq!((error.kind(), error.code()), (Kind::Invalid, code), "{error}");
    assert!(error.message().contains(names), "{error} should name {names}");
}

/// The bad options and keys of the table, through every entry point.
pub async fn bad_input_is_refused_before_any_call(h: &Harness) {
    let bad: [(LockOptions, &str); 13] = [
        (once().with_ttl(Duration::ZERO), "ttl"),
        (once().with_ttl(Duration::from_millis(10) - NANO), "ttl"),
        (once().with_ttl(DAY + NANO), "ttl"),
        (once().with_ttl(Duration::MAX), "ttl"),
        (once().with_wait(DAY + NANO), "wait"),
        (once().with_wait(Duration::MAX), "wait"),
        (once().with_min_hold(DAY + NANO), "min_hold"),
        (once().with_min_hold(Duration::MAX), "min_hold"),
        (once().with_max_hold(Duration::ZERO), "max_hold"),
        (once().with_holder(""), "holder"),
        (once().with_holder("x".repeat(65)), "holder"),
        (once().with_holder("tab\there"), "holder"),
        (once().with_target("nowhere"), "target"),
    ];
    for (options, names) in bad {
        // Open or closed: bad input never runs a body.
        let options = options.with_on_error(crate::lock::OnError::Open);
        let run = h.a.locks.with_key(&key(), options.clone(), |_| async { panic!("bad input ran a body") }).await;
        invalid(&run.map(crate::lock::Outcome::<()>::value).unwrap_err(), Code::InvalidRequest, names);
        invalid(&h.a.locks.acquire(&key(), options.clone()).await.unwrap_err(), Code::InvalidRequest, names);
        invalid(&h.a.locks.acquire_as(&key(), Owner::draw(), options).await.unwrap_err(), Code::InvalidRequest, names);
    }
    for ttl in [Duration::ZERO, Duration::from_millis(9), DAY + NANO] {
        invalid(&h.a.locks.renew_as(&key(), Owner::draw(), ttl).await.unwrap_err(), Code::InvalidRequest, "ttl");
        invalid(&h.a.locks.adopt(&key(), Owner::draw(), ttl).await.unwrap_err(), Code::InvalidRequest, "ttl");
    }
    for kept in [once().with_min_hold(TTL), once().with_max_hold(TTL)] {
        // Nobody would keep it: silence would be a promise.
        invalid(&h.a.locks.acquire_as(&key(), Owner::draw(), kept).await.unwrap_err(), Code::InvalidRequest, "hold");
    }
    let keep = h.a.locks.release_keeping(&key(), &Owner::draw(), DAY + NANO).await;
    invalid(&keep.unwrap_err(), Code::InvalidRequest, "min_hold");
    invalid(&h.a.locks.list(&"x".repeat(513), None, 1).await.unwrap_err(), Code::InvalidKey, "prefix");
    for limit in [0, 1_001] {
        invalid(&h.a.locks.list("", None, limit).await.unwrap_err(), Code::InvalidRequest, "page");
    }
    for text in ["", "  ", "line\nbreak", &"x".repeat(1_025)] {
        invalid(&Reason::new(text).unwrap_err(), Code::InvalidRequest, "reason");
    }
    let many = vec![(key(), Owner::draw(), TTL); 201];
    invalid(&h.a.locks.renew_many(&many).await.unwrap_err(), Code::InvalidRequest, "200");
    for (collection, id) in [("", "42"), ("projects", ""), ("projects", &*"x".repeat(512)), ("projects", &*":".repeat(170))] {
        let run = h.a.eu().run(collection, id, |_| async { panic!("a bad key ran a body") }).await;
        invalid(&run.map(crate::lock::Outcome::<()>::value).unwrap_err(), Code::InvalidKey, "");
    }
    invalid(&key().attribute("").unwrap_err(), Code::InvalidKey, "attribute");
    let raw = ["", "with\ncontrol", "with\0zero", "with\x7fdelete", "onward:ours", &*"x".repeat(513), &*"é".repeat(257)];
    for text in raw {
        invalid(&LockKey::raw(text).unwrap_err(), Code::InvalidKey, "lock key");
    }
    invalid(&LockKey::raw("raw").unwrap().attribute("a").unwrap_err(), Code::InvalidKey, "raw");
    let odd = "g".repeat(32);
    for text in ["", "0", &"0".repeat(31), &"0".repeat(33), &odd, &format!(" {}", "0".repeat(31)), &"é".repeat(16)] {
        invalid(&text.parse::<Owner>().unwrap_err(), Code::InvalidRequest, "owner");
    }
    for number in [0, 1 << 63, u64::MAX] {
        assert_eq!(FencingToken::new(number).unwrap_err().kind(), Kind::Invalid);
    }
    for text in ["", "-1", "one", "1.0", "18446744073709551616"] {
        assert_eq!(text.parse::<FencingToken>().unwrap_err().kind(), Kind::Invalid, "{text}");
    }
    assert_eq!(h.a.engine.all_calls(), 0, "nothing was asked");
    assert!(h.a.seen.outcomes().is_empty(), "refused input is no attempt");
}

/// Settings that break a rule start nothing.
pub async fn bad_settings_are_refused(h: &Harness) {
    let refused = |change: fn(&mut LocksConfig)| {
        let mut config = LocksConfig { clock: h.clock.clone(), ..LocksConfig::default() };
        change(&mut config);
        let error = Locks::new(h.a.engine.clone(), config).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    };
    refused(|config| config.namespace = String::new());
    refused(|config| config.namespace = "x".repeat(33));
    refused(|config| config.namespace = "Main".to_owned());
    refused(|config| config.namespace = "a:b".to_owned());
    refused(|config| config.targets = vec!["projects".to_owned(); 65]);
    refused(|config| config.targets = vec!["Projects".to_owned()]);
    refused(|config| config.targets = vec![String::new()]);
    refused(|config| config.targets = vec!["1st".to_owned()]);
    refused(|config| config.scope_labels = vec!["eu".to_owned(); 65]);
    refused(|config| config.scope_labels = vec![String::new()]);
    refused(|config| config.scope_labels = vec!["x".repeat(65)]);
    refused(|config| config.command_timeout = Duration::ZERO);
    refused(|config| config.drop_queue = 0);
    refused(|config| config.renew_batch = 0);
    assert_eq!(h.a.engine.all_calls(), 0);
}

/// The limits themselves are legal, and a ttl is rounded up to whole milliseconds.
pub async fn every_limit_itself_is_accepted(h: &Harness) {
    let options = once().with_ttl(DAY).with_wait(DAY).with_holder("~".repeat(64)).with_max_hold(NANO).with_min_hold(Duration::ZERO);
    let lost = h.a.locks.acquire(&LockKey::raw("y").unwrap(), options.clone()).await.unwrap();
    h.clock.advance(NANO);
    assert_eq!(lost.release().await.unwrap(), Release::AlreadyLost, "a hold of a nanosecond is over");
    let options = options.with_max_hold(Duration::MAX);
    let grant = h.a.locks.acquire(&LockKey::raw(&"x".repeat(512)).unwrap(), options).await.unwrap();
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    let _short = h.a.locks.acquire(&key(), once().with_ttl(Duration::from_millis(10) + NANO)).await.unwrap();
    assert_eq!(h.b.finds_busy(&key()).await, Duration::from_millis(11));
    let unknown = h.a.locks.scope("").key("projects", "42").unwrap();
    assert_eq!(unknown.as_str(), "lock:main:unknown:projects:42");
    let owner = Owner::draw();
    assert_eq!(owner.to_string().parse::<Owner>().unwrap(), owner);
    assert!(!format!("{owner:?}").contains(&owner.to_string()));
    assert_eq!(FencingToken::new((1 << 63) - 1).unwrap().get(), (1 << 63) - 1);
}
