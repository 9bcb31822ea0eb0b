//! That an engine is an ordered, durable map: random batches against a map in memory, read back at random, over a restart.

use std::{collections::BTreeMap, path::Path};

use crate::{
    engine::{Engine, Writes, open},
    files::mix,
};

const BATCHES: u64 = 200;
const RESTART_EVERY: u64 = 50;
const KEYS: u64 = 400;

type Oracle = BTreeMap<Vec<u8>, Vec<u8>>;

/// Stops the program if the engine is wrong.
pub(crate) fn all(name: &str, directory: &Path) {
    let seed = std::env::var("TEST_SEED").map_or_else(
        |_| u64::from(std::process::id()),
        |seed| seed.parse().expect("a number"),
    );
    eprintln!("TEST_SEED={seed}");
    let mut oracle = Oracle::new();
    let mut engine = open(name, directory);
    for batch in 0..BATCHES {
        let writes = writes(seed.wrapping_add(batch << 20));
        // What is seen at first stays as it was.
        let before = oracle.clone();
        let mut view = engine.view();
        let first = view.scan(b"", &[255], 3);
        engine.commit(&writes);
        assert_eq!(view.scan(b"", &[255], 3), first, "{name}: a view changed");
        assert_eq!(first, before.into_iter().take(3).collect::<Vec<_>>(), "{name}");
        drop(view);
        for (key, value) in writes {
            match value {
                Some(value) => _ = oracle.insert(key, value),
                None => _ = oracle.remove(&key),
            }
        }
        if batch % RESTART_EVERY == 0 {
            drop(engine);
            engine = open(name, directory);
        }
        compare(name, engine.as_ref(), &oracle, seed ^ batch);
    }
}

fn writes(seed: u64) -> Writes {
    (0..mix(seed) % 40)
        .map(|number| {
            let chance = mix(seed.wrapping_add(number + 1));
            let value = vec![chance as u8; (chance >> 8) as usize % 500];
            (key(chance >> 32), (!chance.is_multiple_of(3)).then_some(value))
        })
        .collect()
}

/// Short and long ones, some of which begin with others.
fn key(chance: u64) -> Vec<u8> {
    let mut key = vec![b'k'; 1 + chance as usize % 3];
    key.extend(((chance >> 8) % KEYS).to_be_bytes());
    key
}

fn compare(name: &str, engine: &dyn Engine, oracle: &Oracle, chance: u64) {
    let mut view = engine.view();
    let (one, other) = (key(mix(chance)), key(mix(chance + 1)));
    assert_eq!(view.get(&one).as_ref(), oracle.get(&one), "{name}");
    let (start, end) = if one < other { (one, other) } else { (other, one) };
    for (start, end, limit) in [(start, end, 7), (Vec::new(), vec![255], usize::MAX >> 1)] {
        let expected: Vec<_> = oracle
            .range(start.clone()..end.clone())
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(view.scan(&start, &end, limit), expected, "{name}");
    }
}
