//! The doorbell: rings when something may have changed in the outbox.
//!
//! inotify loses events: when too many come at once, when a folder is replaced, when a limit is
//! reached. So it only says "look", and the outbox is looked at every half minute without it.

use std::sync::mpsc::Sender;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use outbox::{Outbox, Place};
use tracing::warn;

use crate::event::Event;

/// Watches as long as it lives.
pub struct Doorbell {
    _watcher: Option<RecommendedWatcher>,
}

impl Doorbell {
    /// Begins to watch. To be called before the first look, so that nothing falls between. Where
    /// it can't watch it says so in the log, and does without.
    pub fn new(outbox: &Outbox, ring: Sender<Event>) -> Self {
        let heard = move |event: notify::Result<notify::Event>| {
            // Reading a folder is an event as well, and ours: it must not ring.
            if !matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_))) {
                let _ = ring.send(Event::Look);
            }
        };
        let watch = || -> notify::Result<RecommendedWatcher> {
            let mut watcher = notify::recommended_watcher(heard)?;
            let places = [Place::New, Place::Cur].map(|place| outbox.maildir(place));
            for folder in places.iter().map(std::path::PathBuf::as_path).chain([outbox.root()]) {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        };
        let watcher = watch()
            .inspect_err(|error| {
                warn!("cannot watch the outbox, looking at it every half minute instead: {error}");
            })
            .ok();
        Self { _watcher: watcher }
    }
}
