//! Turns of all contestants, interleaved.

use std::time::{Duration, Instant};

/// How long to measure.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Effort {
    #[default]
    Full,
    /// To see whether it works.
    Quick,
}

impl Effort {
    const fn turns(self) -> usize {
        match self {
            Self::Full => 61,
            Self::Quick => 5,
        }
    }

    const fn turn_min(self) -> Duration {
        match self {
            Self::Full => Duration::from_micros(800),
            Self::Quick => Duration::from_micros(100),
        }
    }
}

/// One implementation at one task: does it as many times as it is told.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) is_ours: bool,
    run: Box<dyn FnMut(usize) -> Duration>,
}

impl Contestant {
    /// Something of ours.
    pub(crate) fn own(name: &'static str, mut run: impl FnMut(usize) + 'static) -> Self {
        Self {
            is_ours: true,
            ..Self::timing_itself(name, move |count| {
                let start = Instant::now();
                run(count);
                start.elapsed()
            })
        }
    }

    /// Something that ours are held against and that says how long it took.
    pub(crate) fn timing_itself(name: &'static str, run: impl FnMut(usize) -> Duration + 'static) -> Self {
        Self {
            name,
            is_ours: false,
            run: Box::new(run),
        }
    }

    /// Something of ours that says how long it took.
    pub(crate) fn own_timing_itself(name: &'static str, run: impl FnMut(usize) -> Duration + 'static) -> Self {
        Self {
            is_ours: true,
            ..Self::timing_itself(name, run)
        }
    }

    /// Something that ours are held against.
    pub(crate) fn other(name: &'static str, run: impl FnMut(usize) + 'static) -> Self {
        Self {
            is_ours: false,
            ..Self::own(name, run)
        }
    }

    /// Something that is readied before each of its turns, untimed.
    pub(crate) fn readied(
        name: &'static str,
        is_ours: bool,
        mut ready: impl FnMut() + 'static,
        mut once: impl FnMut() + 'static,
    ) -> Self {
        let timing = move |count| {
            ready();
            let start = Instant::now();
            (0..count).for_each(|_| once());
            start.elapsed()
        };
        Self {
            is_ours,
            ..Self::timing_itself(name, timing)
        }
    }
}

/// The seconds that each turn of a contestant took, per repetition.
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn median(&self) -> f64 {
        median(self.0.clone())
    }

    /// How many times faster this was than `other`: the median over pairs of turns next to each other.
    pub(crate) fn faster_than(&self, other: &Self) -> f64 {
        median(self.0.iter().zip(&other.0).map(|(own, other)| other / own).collect())
    }
}

/// Lets each contestant have its turn, again and again.
pub(crate) fn interleaved(contestants: &mut [Contestant], effort: Effort) -> Vec<Times> {
    let counts: Vec<usize> = contestants.iter_mut().map(|one| repetitions(one, effort)).collect();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    for _ in 0..effort.turns() {
        for ((contestant, count), times) in contestants.iter_mut().zip(&counts).zip(&mut times) {
            times.push(time(contestant, *count) / *count as f64);
        }
    }
    times.into_iter().map(Times).collect()
}

fn repetitions(contestant: &mut Contestant, effort: Effort) -> usize {
    let mut count = 1;
    while time(contestant, count) < effort.turn_min().as_secs_f64() {
        count *= 2;
    }
    count
}

fn time(contestant: &mut Contestant, count: usize) -> f64 {
    (contestant.run)(count).as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
