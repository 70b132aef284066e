//! Following a chain: a page query, woken by the change feed.

use std::collections::VecDeque;

use super::chain::Chain;
use super::options::{Filter, Page};
use crate::commit::{Feed, FeedItem};
use crate::model::{Sealed, Seq};
use crate::{Error, Kind, Result};

/// Entries that a tail reads at a time.
const PAGE: usize = 256;

/// Where a tail begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum From {
    /// Behind the head: only what is appended from now on.
    #[default]
    Head,
    /// At this position.
    Seq(Seq),
}

/// A reader that yields each entry of a chain once, in order. Dropping it costs nothing; its place is the seq of the last entry.
#[derive(Debug)]
pub struct Tail {
    chain: Chain,
    from: From,
    /// The feed that wakes it and the next position; absent before the first call.
    at: Option<(Feed, u64)>,
    ready: VecDeque<Sealed>,
}

impl Tail {
    pub(super) fn new(chain: Chain, from: From) -> Self {
        Self { chain, from, at: None, ready: VecDeque::new() }
    }

    /// Fixes the place where the tail begins. The first [`Tail::next`] does it too.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the engine is away; call again.
    pub async fn start(&mut self) -> Result<()> {
        if self.at.is_none() {
            // Opened before the chain is looked at, or an append in between would wake nobody.
            let feed = self.chain.trail().queue().feed(None, None).await.map_err(|e| e.during("tail"))?.of_notes_at_once();
            let next = match self.from {
                From::Seq(seq) => seq.get(),
                From::Head => self.chain.head().await.map_err(|e| e.during("tail"))?.map_or(1, |head| head.seq.get() + 1),
            };
            self.at = Some((feed, next));
        }
        Ok(())
    }

    /// Waits for the next entry.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the engine is away, call again; or `integrity_failure`: an entry is missing or damaged.
    /// `Expired`: the next entry is purged.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: an entry is taken only when it is returned.
    pub async fn next(&mut self) -> Result<Sealed> {
        loop {
            self.start().await?;
            self.read().await.map_err(|e| e.during("tail"))?;
            let Some((feed, next)) = &mut self.at else { continue };
            if let Some(entry) = self.ready.pop_front() {
                *next = entry.seq.get() + 1;
                return Ok(entry);
            }
            match wake(feed, &self.chain, *next).await {
                // The log was compacted beyond the feed: the chain itself has everything.
                Err(error) if error.kind() == Kind::Expired => {
                    self.from = From::Seq(Seq::new(*next)?);
                    self.at = None;
                }
                woken => woken.map_err(|e| e.during("tail"))?,
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        let Some((_, next)) = &self.at else { return Ok(()) };
        if !self.ready.is_empty() {
            return Ok(());
        }
        let filter = Filter { from: Some(Seq::new(*next)?), ..Filter::default() };
        match self.chain.query(&filter, Page::first(PAGE)).await {
            Ok(found) => {
                let dense = found.items.iter().zip(*next..).all(|(entry, seq)| entry.seq.get() == seq);
                // A position beyond the end is waited for; a hole never fills.
                if !dense {
                    return Err(self.chain.absent(*next, || Error::integrity("an entry is missing from the chain")).await);
                }
                self.ready = found.items.into();
                Ok(())
            }
            // The first append makes the chain.
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Waits until the feed tells of an entry of the chain at or behind a position.
async fn wake(feed: &mut Feed, chain: &Chain, next: u64) -> Result<()> {
    loop {
        if let FeedItem::Commit(record) = feed.next().await?
            && record.entries.iter().any(|entry| entry.chain == *chain.name() && entry.seq.get() >= next)
        {
            return Ok(());
        }
    }
}
