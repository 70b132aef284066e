//! This process's places in the queues of keys: taking one, being handed a key, giving it up, and passing on what another did not take.
//!
//! A place has a name that no other ever has: the process, an owner, and the holder's text. Whoever is handed a key gets a lease under the
//! owner of the place, for [`CLAIM`], and hears of it by a word on the process's channel. Answers and words of one connection come in the
//! order in which the server wrote them. So a word that comes after the answer to the last request is of a lease that is younger than that
//! request, and the holder knows from when on it counts without asking.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::connection::{Link, Pushed, WeakLink};
use super::lock::{CLAIM, NO_ARGS, RELEASE, queue_of};
use super::script::{Script, script};
use super::server_clock::ServerClock;
use crate::lock::{Owner, Tried, Waiters};
use crate::model::{FencingToken, LockKey};
use crate::time::{Clock, Moment};
use crate::{Result, retry};

static PASS_ON: Script = script!("keys.lua", "token.lua", "give.lua", "lease.lua", "pass_on.lua");

/// How long after a hand-over it is looked whether the key was taken: surely after the claim's end.
const LATE: std::time::Duration = CLAIM.saturating_add(std::time::Duration::from_millis(20));
/// Keys whose hand-over is watched at once; more are watched by those who wait. As many are known to be waited
/// for.
const WATCHED: usize = 10_000;

/// The places of one process.
#[derive(Debug)]
pub(super) struct Places {
    process: String,
    clock: Clock,
    /// Keys in whose queue this process may have a place.
    places: Mutex<HashMap<LockKey, Place>>,
    /// Keys that this process holds and had to wait for: others may wait behind it.
    waited_for: Mutex<HashSet<LockKey>>,
    waiters: Mutex<Vec<Weak<dyn Waiters>>>,
    /// Keys that were handed over, and when it is time to see whether that was taken.
    watched: Mutex<HashMap<LockKey, Moment>>,
    link: OnceLock<WeakLink>,
    /// Known as long as the connection lasts.
    server_clock: Arc<ServerClock>,
}

/// A place in the queue of a key.
#[derive(Debug)]
struct Place {
    name: Arc<str>,
    owner: Owner,
    /// Requests that name this place and have no answer. One whose caller left counts for ever: it may still be carried out.
    out: usize,
    /// When the newest request was sent that found it in the queue, on this connection.
    asked: Option<Moment>,
    /// The token of the lease that it was handed since.
    handed: Option<FencingToken>,
}

/// What a process hears on its channel: `OWNER:TOKEN:KEY`, or `:0:KEY` if it shall only look.
struct Word {
    handed: Option<(Owner, FencingToken)>,
    key: LockKey,
}

/// What a process knew of a place when it heard that it was handed its key.
#[derive(Clone, Copy)]
enum Known {
    /// That it has no such place any more.
    Gone,
    /// That nobody asks: it is there to be taken.
    Handed,
    /// That somebody asks, or asked and left, or that the connection was lost since.
    Asking,
}

impl Word {
    fn parse(payload: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(payload).ok()?.splitn(3, ':');
        let (owner, token, key) = (parts.next()?, parts.next()?, parts.next()?);
        let token: u64 = token.parse().ok()?;
        let handed = if token == 0 { None } else { Some((owner.parse().ok()?, FencingToken::new(token).ok()?)) };
        Some(Self { handed, key: LockKey::raw(key).ok()? })
    }
}

impl Places {
    pub(super) fn new(server_clock: Arc<ServerClock>) -> Self {
        Self {
            process: Owner::draw().to_string(),
            clock: Clock::system(),
            places: Mutex::default(),
            waited_for: Mutex::default(),
            waiters: Mutex::default(),
            watched: Mutex::default(),
            link: OnceLock::new(),
            server_clock,
        }
    }

    /// Says over which connection to act by itself.
    pub(super) fn work_on(&self, link: &Link) {
        // Once: there is one.
        let _ = self.link.set(link.downgrade());
    }

    pub(super) fn channel(&self) -> String {
        format!("onward:wake:{}", self.process)
    }

    pub(super) fn listen(&self, waiters: Weak<dyn Waiters>) {
        let mut all = self.waiters.lock();
        all.retain(|waiters| waiters.strong_count() > 0);
        all.push(waiters);
    }

    /// Takes what was handed over, if it is surely this process's for a while: older, and the server is asked, which grants all of it.
    pub(super) fn take_handed(&self, key: &LockKey, now: Moment) -> Option<Tried> {
        let mut places = self.places.lock();
        let place = places.get(key)?;
        let (age, token) = (now.since(place.asked?), place.handed?);
        if age > CLAIM / 2 {
            return None;
        }
        let owner = place.owner;
        places.remove(key);
        self.waited_for(key);
        Some(Tried::Handed { owner, token, remaining: CLAIM - age })
    }

    /// Says how to ask for a key from a place: `1`, surely a new one, or `2`, one that is perhaps there, and its name.
    ///
    /// From now on only the answer tells what was handed over: two could take it otherwise.
    pub(super) fn ask(&self, key: &LockKey, holder: &str) -> (&'static str, Arc<str>) {
        let mut places = self.places.lock();
        if let Some(place) = places.get_mut(key) {
            (place.out, place.handed) = (place.out + 1, None);
            return ("2", Arc::clone(&place.name));
        }
        let owner = Owner::draw();
        let name: Arc<str> = format!("{}:{owner}:{holder}", self.process).into();
        places.insert(key.clone(), Place { name: Arc::clone(&name), owner, out: 1, asked: None, handed: None });
        ("1", name)
    }

    /// Takes in that a request of then found its place in the queue.
    pub(super) fn stands(&self, key: &LockKey, name: &Arc<str>, sent: Moment) {
        if let Some(place) = self.places.lock().get_mut(key)
            && Arc::ptr_eq(&place.name, name)
        {
            (place.out, place.asked) = (place.out - 1, Some(sent));
        }
    }

    /// Takes in that a key came from another holder.
    pub(super) fn waited_for(&self, key: &LockKey) {
        let mut keys = self.waited_for.lock();
        if keys.len() >= WATCHED {
            // Not all are ever given back. What is forgotten is handed over a little later.
            keys.clear();
        }
        keys.insert(key.clone());
    }

    /// Tells whether a key that is given back now came from another holder.
    pub(super) fn was_waited_for(&self, key: &LockKey) -> bool {
        self.waited_for.lock().remove(key)
    }

    /// The place is used up.
    pub(super) fn left(&self, key: &LockKey, name: &Arc<str>) {
        let mut places = self.places.lock();
        if places.get(key).is_some_and(|place| Arc::ptr_eq(&place.name, name)) {
            places.remove(key);
        }
    }

    /// Gives places up, and what was handed over meanwhile.
    pub(super) async fn leave(self: &Arc<Self>, link: &Link, keys: Vec<LockKey>) -> Result<()> {
        let left: Vec<(LockKey, Place)> = {
            let mut places = self.places.lock();
            keys.into_iter().filter_map(|key| places.remove_entry(&key)).collect()
        };
        if left.is_empty() {
            return Ok(());
        }
        let mut commands = redis::pipe();
        for (key, place) in &left {
            commands.cmd("LREM").arg(queue_of(key)).arg(0).arg(&*place.name);
        }
        let _: Vec<i64> = link.call_all(&commands).await?;
        for (key, place) in left {
            // Who waits here by another handle had the same place.
            self.wake(&key);
            if let Some(token) = place.handed {
                self.give_back(link, &key, &place.owner, token).await?;
            }
        }
        Ok(())
    }

    /// Takes in that a place was handed its key.
    fn hear(&self, key: &LockKey, owner: &Owner, token: FencingToken) -> Known {
        let mut places = self.places.lock();
        match places.get_mut(key).filter(|place| place.owner == *owner) {
            None => Known::Gone,
            Some(place) if place.out == 0 && place.asked.is_some() => {
                place.handed = Some(token);
                Known::Handed
            }
            Some(_) => Known::Asking,
        }
    }

    /// Whether nobody will take what was handed over; its place is given up then.
    fn is_unwanted(&self, key: &LockKey, owner: &Owner, token: FencingToken, known: Known, heard: bool) -> bool {
        let mut places = self.places.lock();
        let place = places.get(key).filter(|place| place.owner == *owner);
        let unwanted = match known {
            Known::Gone => return true,
            // Gone, or asked for: then somebody took it, and its lease looks as it did.
            Known::Handed => !heard && place.is_some_and(|place| place.handed == Some(token)),
            // Whoever asked and got it rewrote the lease: what is given back is another.
            Known::Asking => !heard,
        };
        if unwanted && place.is_some() {
            places.remove(key);
        }
        unwanted
    }

    /// Ends a lease that was handed over and that nobody took: no other, and not this one once it was taken by a request.
    async fn give_back(self: &Arc<Self>, link: &Link, key: &LockKey, owner: &Owner, token: FencingToken) -> Result<()> {
        let answer: String = RELEASE.run(link, &[key.as_str()], &[format!("ow1:{owner}:{token}:h")]).await?;
        if answer == "2" {
            self.watch(key);
        }
        Ok(())
    }

    /// Sees to it that a key which was handed over now goes on to the next if nobody takes it.
    pub(super) fn watch(self: &Arc<Self>, key: &LockKey) {
        let due = self.clock.now() + LATE;
        let mut watched = self.watched.lock();
        if let Some(known) = watched.get_mut(key) {
            *known = due;
        } else if watched.len() < WATCHED {
            watched.insert(key.clone(), due);
            tokio::spawn(Arc::clone(self).see(key.clone()));
        }
    }

    async fn see(self: Arc<Self>, key: LockKey) {
        loop {
            let Some(due) = self.watched.lock().get(&key).copied() else { return };
            if self.clock.now() < due {
                retry::sleep_until(&self.clock, due).await;
                continue;
            }
            let handed_on = match self.link.get().and_then(WeakLink::upgrade) {
                Some(link) => self.pass_on(&link, &key).await.unwrap_or(false),
                None => false,
            };
            let mut watched = self.watched.lock();
            if handed_on {
                watched.insert(key.clone(), self.clock.now() + LATE);
            } else if watched.get(&key).is_none_or(|newest| *newest <= due) {
                watched.remove(&key);
                return;
            }
        }
    }

    async fn pass_on(&self, link: &Link, key: &LockKey) -> Result<bool> {
        let taken: i64 = link.call(redis::cmd("EXISTS").arg(key.as_str())).await?;
        if taken > 0 {
            return Ok(false);
        }
        let handed_on: i64 = PASS_ON.run(link, &[key.as_str()], NO_ARGS).await?;
        Ok(handed_on == 1)
    }

    /// Wakes whoever waits here for a key; false: nobody does.
    fn wake(&self, key: &LockKey) -> bool {
        let mut heard = false;
        for waiters in self.waiters.lock().iter().filter_map(Weak::upgrade) {
            heard |= waiters.wake(key);
        }
        heard
    }
}

impl Pushed for Places {
    fn message(self: Arc<Self>, _: &[u8], payload: &[u8]) {
        let Some(Word { handed, key }) = Word::parse(payload) else { return };
        let Some((owner, token)) = handed else {
            self.wake(&key);
            return;
        };
        let known = self.hear(&key, &owner, token);
        let heard = self.wake(&key);
        if !self.is_unwanted(&key, &owner, token, known, heard) {
            return;
        }
        // The key goes on to the next at once.
        if let Some(link) = self.link.get().and_then(WeakLink::upgrade) {
            tokio::spawn(async move {
                // What fails ends with the claim.
                let _ = self.give_back(&link, &key, &owner, token).await;
            });
        }
    }

    fn lost(self: Arc<Self>) {
        self.server_clock.forget();
        self.places.lock().values_mut().for_each(|place| (place.asked, place.handed) = (None, None));
    }

    fn returned(self: Arc<Self>) {
        // Wakes may have been missed, and the server may have come back empty.
        for waiters in self.waiters.lock().iter().filter_map(Weak::upgrade) {
            waiters.wake_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Debug)]
    struct Here(bool);

    impl Waiters for Here {
        fn wake(&self, _: &LockKey) -> bool {
            self.0
        }

        fn wake_all(&self) {}
    }

    const ASKED: Moment = Moment::from_nanos(1_000_000_000_000);

    struct Case {
        places: Arc<Places>,
        key: LockKey,
        name: Arc<str>,
        _here: Arc<Here>,
    }

    /// A process with a place that its first request found in the queue; somebody waits here, or has left.
    fn standing(waits: bool) -> Case {
        let places = Arc::new(Places::new(Arc::default()));
        let here = Arc::new(Here(waits));
        let waiters: Weak<Here> = Arc::downgrade(&here);
        places.listen(waiters);
        let key = LockKey::raw("job").unwrap();
        let (how, name) = places.ask(&key, "me");
        assert_eq!(how, "1");
        places.stands(&key, &name, ASKED);
        Case { places, key, name, _here: here }
    }

    impl Case {
        fn hear(&self, token: u64) {
            let word = format!("{}:{token}:job", &self.name[33..65]);
            Arc::clone(&self.places).message(b"", word.as_bytes());
        }

        fn taken(&self, after: Duration) -> Option<Duration> {
            match self.places.take_handed(&self.key, ASKED + after)? {
                Tried::Handed { owner, token, remaining } => {
                    assert_eq!((owner.to_string().as_str(), token.get()), (&self.name[33..65], 7));
                    Some(remaining)
                }
                other => panic!("{other:?}"),
            }
        }

        fn is_there(&self) -> bool {
            self.places.places.lock().contains_key(&self.key)
        }
    }

    #[test]
    fn what_was_handed_over_counts_from_the_request_before_it_and_is_taken_once() {
        let case = standing(true);
        assert_eq!(case.taken(Duration::ZERO), None, "nothing was said");
        case.hear(7);
        assert_eq!(case.taken(CLAIM / 4), Some(CLAIM - CLAIM / 4));
        assert_eq!(case.taken(CLAIM / 4), None);
        assert!(!case.is_there());
        let (how, name) = case.places.ask(&case.key, "me");
        assert_eq!(how, "1");
        assert_ne!(name, case.name, "no two places have one name");
    }

    #[test]
    fn an_old_word_is_left_to_the_server() {
        let case = standing(true);
        case.hear(7);
        assert_eq!(case.taken(CLAIM / 2 + Duration::from_nanos(1)), None);
        assert_eq!(case.places.ask(&case.key, "me"), ("2", Arc::clone(&case.name)));
    }

    #[test]
    fn while_a_request_is_out_its_answer_decides() {
        let case = standing(true);
        case.hear(7);
        let (_, name) = case.places.ask(&case.key, "me");
        assert_eq!(case.taken(Duration::ZERO), None, "the request may get it, for another caller");
        case.hear(7);
        assert_eq!(case.taken(Duration::ZERO), None);
        case.places.stands(&case.key, &name, ASKED);
        assert_eq!(case.taken(Duration::ZERO), None, "it was said before the answer");
        case.hear(7);
        assert!(case.taken(Duration::ZERO).is_some());
    }

    #[test]
    fn a_request_without_an_answer_is_out_for_ever() {
        let case = standing(true);
        let _lost = case.places.ask(&case.key, "me");
        let (_, name) = case.places.ask(&case.key, "me");
        case.places.stands(&case.key, &name, ASKED);
        case.hear(7);
        assert_eq!(case.taken(Duration::ZERO), None);
    }

    #[test]
    fn a_lost_connection_takes_along_what_was_known() {
        let case = standing(true);
        case.hear(7);
        Arc::clone(&case.places).lost();
        assert_eq!(case.taken(Duration::ZERO), None);
        case.hear(7);
        assert_eq!(case.taken(Duration::ZERO), None, "nothing was asked on this connection");
    }

    #[test]
    fn what_nobody_waits_for_is_given_up_with_its_place() {
        let case = standing(false);
        case.hear(7);
        assert_eq!(case.taken(Duration::ZERO), None);
        assert!(!case.is_there());
    }

    #[test]
    fn only_what_nobody_took_is_given_back() {
        let case = standing(true);
        let (owner, token) = (case.name[33..65].parse().unwrap(), FencingToken::new(7).unwrap());
        let unwanted = |known, heard| case.places.is_unwanted(&case.key, &owner, token, known, heard);
        assert!(!unwanted(Known::Handed, true));
        assert!(!unwanted(Known::Asking, true));
        case.hear(7);
        assert!(case.taken(Duration::ZERO).is_some());
        assert!(!unwanted(Known::Handed, false), "it was taken between the word and the look");
        assert!(unwanted(Known::Gone, true), "nobody here ever knew of it");
    }

    #[test]
    fn words_of_another_form_are_passed_over() {
        let case = standing(true);
        for word in ["", "job", ":", "x:7:job", ":7:job", "::job", ":0:", ":-1:job"] {
            assert!(Word::parse(word.as_bytes()).is_none(), "{word}");
            Arc::clone(&case.places).message(b"", word.as_bytes());
        }
        assert!(Word::parse(b"\xff:0:job").is_none());
        let word = Word::parse(b":0:a:b").unwrap();
        assert_eq!((word.handed, word.key.as_str()), (None, "a:b"));
        assert!(case.is_there());
    }
}
