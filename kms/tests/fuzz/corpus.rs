//! Inputs worth mutating: those that were kept in `corpus.txt`, and in a run the first of each outcome.

use std::{collections::HashSet, io::Write as _};

use super::mutate::Random;

/// Lines of a target's name and an input in hexadecimal digits.
const KEPT: &str = include_str!("corpus.txt");
const INPUTS_MAX: usize = 4096;

/// The inputs of one target.
pub(crate) struct Corpus {
    target: &'static str,
    inputs: Vec<Vec<u8>>,
    outcomes: HashSet<String>,
}

impl Corpus {
    /// What was kept for `target`, and `seeds`, which are good.
    pub(crate) fn new(target: &'static str, seeds: Vec<Vec<u8>>) -> Self {
        let kept = KEPT.lines().filter_map(|line| line.split_once(' '));
        let kept = kept.filter(|(name, _)| *name == target);
        let kept = kept.map(|(_, digits)| hex::decode(digits).expect("hexadecimal digits"));
        Self {
            target,
            inputs: seeds.into_iter().chain(kept).collect(),
            outcomes: HashSet::new(),
        }
    }

    pub(crate) fn inputs(&self) -> &[Vec<u8>] {
        &self.inputs
    }

    pub(crate) fn pick(&self, random: &mut Random) -> &[u8] {
        &self.inputs[random.below(self.inputs.len())]
    }

    /// Keeps an input that is the first with its outcome. Numbers and what is quoted do not make an outcome another.
    pub(crate) fn offer(&mut self, input: &[u8], outcome: &str) {
        let (before, after) = match (outcome.split_once('"'), outcome.rsplit_once('"')) {
            (Some((before, _)), Some((_, after))) => (before, after),
            _ => (outcome, ""),
        };
        let letters = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let shape = format!("{} … {}", letters(before), letters(after));
        if self.outcomes.len() < INPUTS_MAX
            && self.outcomes.insert(shape)
            && !self.inputs.iter().any(|known| known == input)
        {
            self.inputs.push(input.to_vec());
            self.keep(input);
        }
    }

    fn keep(&self, input: &[u8]) {
        if let Ok(path) = std::env::var("FUZZ_KEEP") {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let line = format!("{} {}\n", self.target, hex::encode(input));
            file.and_then(|mut file| file.write_all(line.as_bytes()))
                .expect("FUZZ_KEEP names a file");
        }
    }
}
