//! The newest events as they go on the wire, spelled once for all watchers that are shown the whole commit.

use std::sync::{Arc, Weak};

use onward::commit::Record;
use parking_lot::Mutex;

use crate::sse::Event;

/// How many are kept, and the longest: 8 MiB in sum.
const EVENTS: u64 = 512;
const EVENT_BYTES: usize = 16 << 10;

/// Events by the record that they spell. It is known again by its address, which the weak pointer keeps from being used anew.
#[derive(Debug)]
pub(crate) struct Spelled(Box<[Mutex<Option<Known>>]>);

#[derive(Debug)]
struct Known {
    record: Weak<Record>,
    payload: bool,
    event: Event,
}

impl Default for Spelled {
    fn default() -> Self {
        Self((0..EVENTS).map(|_| Mutex::default()).collect())
    }
}

impl Spelled {
    /// Returns the event of a record, with payloads or without, spelled now if nobody has.
    pub(crate) fn event(&self, record: &Arc<Record>, payload: bool, spell: impl FnOnce() -> Event) -> Event {
        // Narrowed for this watcher, or read from the log by it: nobody else asks.
        let alone = Arc::strong_count(record) == 1;
        let place = usize::try_from(record.revision.get() % EVENTS).unwrap_or(0);
        let Some(place) = self.0.get(place).filter(|_| !alone) else { return spell() };
        if let Some(known) = &*place.lock()
            && known.payload == payload
            && std::ptr::eq(known.record.as_ptr(), Arc::as_ptr(record))
        {
            return known.event.clone();
        }
        let event = spell();
        if event.len() <= EVENT_BYTES {
            *place.lock() = Some(Known { record: Arc::downgrade(record), payload, event: event.clone() });
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use onward::model::Revision;
    use onward::time::Timestamp;

    use super::*;

    fn record() -> Arc<Record> {
        let revision = Revision::new(7).unwrap();
        let at = Timestamp::default();
        Arc::new(Record { revision, at, changes: Vec::new(), invalidations: Vec::new(), entries: Vec::new(), request: None })
    }

    #[test]
    fn a_shared_record_is_spelled_once_and_another_of_its_revision_anew() {
        let (spelled, count) = (Spelled::default(), Cell::new(0));
        let ask = |record: &Arc<Record>, payload| {
            let spell = || {
                count.set(count.get() + 1);
                Event::new("change", Some(7), &count.get())
            };
            spelled.event(record, payload, spell).len()
        };
        let shared = record();
        let _other = shared.clone();
        for _ in 0..3 {
            ask(&shared, true);
        }
        assert_eq!(count.get(), 1);
        ask(&shared, false);
        assert_eq!(count.get(), 2, "without payloads it is another event");
        let narrowed = record();
        let _also = narrowed.clone();
        ask(&narrowed, false);
        assert_eq!(count.get(), 3, "the same revision, narrowed, is another event");
        ask(&record(), false);
        ask(&narrowed, false);
        assert_eq!(count.get(), 4, "what one alone holds pushes nothing out");
    }
}
