//! What the system says of the service while it runs, and whether that stays the same.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// Until a service has settled: sessions, buffers and the heap have their size then.
const SETTLED: Duration = Duration::from_secs(10);

/// By how much the median of memory (in KiB) may be higher in the last third of a life than in the
/// first one, besides a tenth of it: the heap of a program with threads breathes.
const BREATH: u64 = 2_000;

/// The same for descriptors and threads: as many as connections come and go.
const COMING_AND_GOING: u64 = 8;

/// How many sessions a program has in the database at most: the generator two, the deliverer one,
/// and as many are about to end after they were cut.
const SESSIONS: i64 = 8;

/// A life of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Since when.
    pub begun: Instant,
    /// Whether nobody is to kill it.
    pub long: bool,
}

/// The service at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    life: Life,
    at: Duration,
    /// KiB.
    memory: u64,
    /// KiB.
    peak: u64,
    descriptors: u64,
    threads: u64,
}

impl Sample {
    /// `None` if it ended just now.
    pub fn of(pid: u32, life: Life) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let value = |key: &str| -> Option<u64> {
            let text = status.lines().find_map(|line| line.strip_prefix(key))?;
            text.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            life,
            at: life.begun.elapsed(),
            memory: value("VmRSS:")?,
            peak: value("VmHWM:")?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64,
            threads: value("Threads:")?,
        })
    }
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Samples {
    service: Vec<Sample>,
    folders: Vec<[usize; 5]>,
    sessions: Vec<(i64, i64)>,
}

impl Samples {
    /// Notes what was seen at a moment: the service, how many files are in `new`, `cur`, `sidecar`,
    /// `delivery` and the archive, and the sessions of generator and deliverer.
    pub fn note(
        &mut self,
        service: Option<Sample>,
        folders: [usize; 5],
        sessions: Option<(i64, i64)>,
    ) {
        self.service.extend(service);
        self.folders.push(folders);
        self.sessions.extend(sessions);
    }

    /// The lives that were left in peace, each with its samples but the first ones.
    fn long_lives(&self) -> Vec<Vec<Sample>> {
        let settled = |sample: &&Sample| sample.life.long && sample.at >= SETTLED;
        let settled: Vec<Sample> = self.service.iter().filter(settled).copied().collect();
        settled.chunk_by(|a, b| a.life == b.life).map(<[Sample]>::to_vec).collect()
    }

    /// Panics if the service grew within a life that was left in peace, or if there was no such life
    /// of this length.
    pub fn assert_flat(&self, long_enough: Duration) {
        let lives = self.long_lives();
        let longest = lives.iter().filter_map(|life| Some(life.last()?.at)).max();
        assert!(longest >= Some(long_enough), "the longest life took {longest:?}");
        for life in lives {
            for (what, breath, value) in QUANTITIES {
                let [first, last] = ends(&life).map(|third| median(third, value));
                assert!(last <= first + first / 10 + breath, "{what} went from {first} to {last}");
            }
        }
        for (generator, deliverer) in &self.sessions {
            assert!(*generator.max(deliverer) <= SESSIONS, "{generator} and {deliverer} sessions");
        }
    }
}

/// What must not grow, by how much it may differ besides a tenth, and where it is.
type Quantity = (&'static str, u64, fn(&Sample) -> u64);

const QUANTITIES: [Quantity; 3] = [
    ("memory (KiB)", BREATH, |sample| sample.memory),
    ("descriptors", COMING_AND_GOING, |sample| sample.descriptors),
    ("threads", COMING_AND_GOING, |sample| sample.threads),
];

/// The first and the last third.
fn ends(life: &[Sample]) -> [&[Sample]; 2] {
    let third = life.len().div_ceil(3);
    [&life[..third], &life[life.len() - third..]]
}

fn median(samples: &[Sample], value: fn(&Sample) -> u64) -> u64 {
    spread(samples.iter().map(value)).1
}

/// Least, median and most.
fn spread<T: Ord + Copy + Default>(values: impl Iterator<Item = T>) -> (T, T, T) {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for life in self.long_lives() {
            let seconds = life.last().map_or(0, |sample| sample.at.as_secs());
            let peak = life.last().map_or(0, |sample| sample.peak);
            writeln!(
                f,
                "a life of {seconds} s, {} samples; peak of memory {peak} KiB",
                life.len()
            )?;
            for (what, _, value) in QUANTITIES {
                let (lowest, middle, highest) = spread(life.iter().map(value));
                let [first, last] = ends(&life).map(|third| median(third, value));
                writeln!(
                    f,
                    "  {what}: {lowest} / {middle} / {highest} (least / median / most); median of \
                     the first third {first}, of the last {last}"
                )?;
            }
        }
        let names = ["new", "cur", "sidecar", "delivery", "archive"];
        for (index, name) in names.into_iter().enumerate() {
            let (least, median, most) = spread(self.folders.iter().map(|folder| folder[index]));
            writeln!(f, "files in {name}: {least} / {median} / {most}")?;
        }
        let generator = spread(self.sessions.iter().map(|sessions| sessions.0));
        let deliverer = spread(self.sessions.iter().map(|sessions| sessions.1));
        write!(
            f,
            "sessions in the database: generator {} / {} / {}, deliverer {} / {} / {}; {} samples",
            generator.0,
            generator.1,
            generator.2,
            deliverer.0,
            deliverer.1,
            deliverer.2,
            self.folders.len(),
        )
    }
}
