//! The file that steers the module: 64-bit words in the machine's order, laid out as `struct control` in `shim.c`.
//!
//! The module maps the file; this side reads and writes single words of it, which the page cache makes one memory.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use crate::{Fault, Function, When};

const FUNCTIONS: u64 = 68;
const HEADER_WORDS: u64 = 16;
const CALLS: u64 = HEADER_WORDS;
const FIRED: u64 = CALLS + FUNCTIONS;
const RULES: u64 = FIRED + FUNCTIONS;
const RULE_WORDS: u64 = 6;
const WORDS: u64 = RULES + FUNCTIONS * RULE_WORDS;
const WORD_BYTES: u64 = 8;

/// A word of the file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field {
    LockAfter,
    WrongPins,
    Renumber,
    Gone,
    Returns,
    Calls(Function),
    Fired(Function),
}

#[derive(Debug)]
pub(crate) struct Control(File);

impl Control {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(path)?;
        file.set_len(WORDS * WORD_BYTES)?;
        Ok(Self(file))
    }

    pub(crate) fn read(&self, field: Field) -> u64 {
        let mut bytes = [0; WORD_BYTES as usize];
        let read = self.0.read_exact_at(&mut bytes, field.index() * WORD_BYTES);
        read.expect("an open file of fixed length");
        u64::from_ne_bytes(bytes)
    }

    pub(crate) fn write(&self, field: Field, value: u64) {
        self.write_word(field.index(), value);
    }

    /// The kind goes in last, so that the module meets no half of a fault.
    pub(crate) fn set(&self, function: Function, fault: Fault, when: When) {
        self.clear(function);
        let rule = RULES + function.index() * RULE_WORDS;
        let [kind, value, extra] = fault.words();
        let [remaining, chance, seed] = when.words();
        for (word, at) in [value, extra, remaining, chance, seed].into_iter().zip(1..) {
            self.write_word(rule + at, word);
        }
        self.write_word(rule, kind);
    }

    pub(crate) fn clear(&self, function: Function) {
        self.write_word(RULES + function.index() * RULE_WORDS, 0);
    }

    fn write_word(&self, index: u64, value: u64) {
        let written = self.0.write_all_at(&value.to_ne_bytes(), index * WORD_BYTES);
        written.expect("an open file of fixed length");
    }
}

impl Field {
    const fn index(self) -> u64 {
        match self {
            Self::LockAfter => 0,
            Self::WrongPins => 1,
            Self::Renumber => 2,
            Self::Gone => 3,
            Self::Returns => 4,
            Self::Calls(function) => CALLS + function.index(),
            Self::Fired(function) => FIRED + function.index(),
        }
    }
}
