//! Files written through a metadata service that hands out extents twice. What comes of that may fail; but no keystream is used twice, no
//! reader is given bytes that nobody published, and what was acknowledged is there as it was.

use std::collections::BTreeMap;

use proptest::{
    prelude::{Strategy, any, prop_oneof},
    strategy::Just,
};
use strongroom_fs::{CreateOptions, FileWriter, ZoneOptions};
use strongroom_proto::{FrameSize, KeyName, ZonePath};

use crate::{keys::KEYS, ledger::plaintext, play::told, world::World};

const FILES: usize = 4;
const WRITERS_MAX: usize = 4;
const FRAME_BYTES: u32 = 4096;
/// Tells the contents of two writers apart.
const BYTES_MIN: usize = 64;

/// What a user does, and what the service does to him.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Create {
        file: usize,
    },
    Append {
        file: usize,
    },
    Add {
        writer: usize,
        bytes: usize,
    },
    Flush {
        writer: usize,
    },
    Finish {
        writer: usize,
    },
    Rewrite {
        file: usize,
    },
    /// The next grant is an earlier one.
    Again {
        back: usize,
    },
    Restart,
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let file = || 0..FILES;
    let writer = || any::<u8>().prop_map(usize::from);
    let bytes = prop_oneof![
        6 => BYTES_MIN..20_000_usize,
        1 => (4 << 20) - 1..(4 << 20) + 5000_usize,
    ];
    let one = prop_oneof![
        6 => file().prop_map(|file| Step::Create { file }),
        3 => file().prop_map(|file| Step::Append { file }),
        8 => (writer(), bytes).prop_map(|(writer, bytes)| Step::Add { writer, bytes }),
        4 => writer().prop_map(|writer| Step::Flush { writer }),
        4 => writer().prop_map(|writer| Step::Finish { writer }),
        2 => file().prop_map(|file| Step::Rewrite { file }),
        6 => (0..4_usize).prop_map(|back| Step::Again { back }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(one, 10..60)
}

/// What may be read of a file.
#[derive(Default)]
struct Expected {
    /// What was acknowledged last, and what writers may have put in its place since.
    contents: Vec<Vec<u8>>,
    /// Something was acknowledged.
    is_there: bool,
}

struct Open {
    writer: FileWriter,
    draft: Draft,
}

struct Draft {
    /// The file that it was opened for, and that which the grant was made for.
    files: [usize; 2],
    /// What is kept of those that were there, and what was added.
    bytes: Vec<u8>,
    /// There is something to publish.
    changed: bool,
    /// Which write it is, as the ledger counts them, and how far.
    extent: u64,
    offset: u64,
}

/// A world with one zone, and what is known of its files.
pub(crate) struct Regrants {
    pub(crate) world: World,
    files: [ZonePath; FILES],
    expected: BTreeMap<usize, Expected>,
    writers: Vec<Open>,
    extents: u64,
    time_ms: u64,
}

impl Regrants {
    pub(crate) fn new(world: World) -> Self {
        let zone = ZonePath::root().child("z").expect("a name");
        let files = std::array::from_fn(|number| zone.child(&format!("f{number}")).expect("a name"));
        Self {
            world,
            files,
            expected: BTreeMap::new(),
            writers: Vec::new(),
            extents: 0,
            time_ms: 1_700_000_000_000,
        }
    }

    pub(crate) async fn play(&mut self, steps: &[Step]) -> Result<(), String> {
        self.begin().await?;
        for (turn, step) in steps.iter().enumerate() {
            let done = self.step(step).await;
            done.map_err(|wrong| format!("step {turn}, {step:?}: {wrong}"))?;
        }
        self.writers.clear();
        for file in 0..FILES {
            self.look(file).await?;
        }
        Ok(())
    }

    async fn begin(&self) -> Result<(), String> {
        let zone = ZonePath::root().child("z").expect("a name");
        let made = self.world.fs.make_directory(&zone, 0o755, false).await;
        made.map_err(|error| told(&error))?;
        let key: KeyName = KEYS[0].parse().expect("a name");
        let options = ZoneOptions {
            frame: Some(FrameSize::from_wire(FRAME_BYTES).expect("a size")),
            ..ZoneOptions::default()
        };
        let made = self.world.fs.create_zone(&zone, &key, &options).await;
        made.map(drop).map_err(|error| told(&error))
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Create { file } => self.create(file).await,
            Step::Append { file } => self.append(file).await,
            Step::Add { writer, bytes } => match self.pick(writer) {
                Some(writer) => self.add(writer, bytes).await,
                None => Ok(()),
            },
            Step::Flush { writer } => match self.pick(writer) {
                Some(writer) => self.publish(writer, false).await,
                None => Ok(()),
            },
            Step::Finish { writer } => match self.pick(writer) {
                Some(writer) => self.publish(writer, true).await,
                None => Ok(()),
            },
            Step::Rewrite { file } => self.rewrite(file).await,
            Step::Again { back } => {
                self.world.replays.arm(back);
                Ok(())
            }
            Step::Restart => {
                self.world.restart().await;
                Ok(())
            }
        }
    }

    fn pick(&self, writer: usize) -> Option<usize> {
        writer.checked_rem(self.writers.len())
    }

    async fn create(&mut self, file: usize) -> Result<(), String> {
        if self.writers.len() == WRITERS_MAX {
            return Ok(());
        }
        self.world.replays.label(file);
        let options = CreateOptions {
            mode: 0o644,
            overwrite: true,
        };
        let created = self.world.fs.create(&self.files[file], options).await;
        if let Ok(writer) = created {
            let of = self.world.replays.given().unwrap_or(file);
            self.enter(writer, [file, of], Vec::new(), true);
        }
        Ok(())
    }

    async fn append(&mut self, file: usize) -> Result<(), String> {
        if self.writers.len() == WRITERS_MAX {
            return Ok(());
        }
        self.world.replays.label(file);
        if let Ok(writer) = self.world.fs.append(&self.files[file], None).await {
            let of = self.world.replays.given().unwrap_or(file);
            // Whatever the service told is in that one: what it will publish is looked at when it has.
            let base = self.read(of).await.unwrap_or_default();
            self.enter(writer, [file, of], base, false);
        }
        Ok(())
    }

    fn enter(&mut self, writer: FileWriter, files: [usize; 2], bytes: Vec<u8>, changed: bool) {
        self.extents += 1;
        let draft = Draft {
            files,
            bytes,
            changed,
            extent: self.extents,
            offset: 0,
        };
        self.writers.push(Open { writer, draft });
    }

    async fn add(&mut self, writer: usize, bytes: usize) -> Result<(), String> {
        let Open { writer: file, draft } = &mut self.writers[writer];
        let data = plaintext(draft.extent, draft.offset, bytes);
        if file.write(&data).await.is_err() {
            self.writers.remove(writer);
            return Ok(());
        }
        draft.bytes.extend_from_slice(&data);
        draft.offset += bytes as u64;
        draft.changed = true;
        Ok(())
    }

    /// What is acknowledged is there, under the path that was asked for or under that which the service took it for.
    async fn publish(&mut self, writer: usize, finish: bool) -> Result<(), String> {
        self.time_ms += 1;
        let Open { mut writer, mut draft } = self.writers.remove(writer);
        if !draft.changed {
            // Nothing is published, whatever others did.
            if !finish && writer.flush(self.time_ms).await.is_ok() {
                self.writers.push(Open { writer, draft });
            }
            return Ok(());
        }
        self.world.replays.label(draft.files[1]);
        for file in draft.files {
            self.expected
                .entry(file)
                .or_default()
                .contents
                .push(draft.bytes.clone());
        }
        if finish {
            return match writer.finish(self.time_ms).await {
                Ok(_) => self.acknowledged(&draft).await,
                Err(_) => Ok(()),
            };
        }
        if writer.flush(self.time_ms).await.is_err() {
            return Ok(());
        }
        self.acknowledged(&draft).await?;
        draft.changed = false;
        self.extents += 1;
        (draft.extent, draft.offset) = (self.extents, 0);
        draft.files[1] = self.world.replays.given().unwrap_or(draft.files[1]);
        self.writers.push(Open { writer, draft });
        Ok(())
    }

    async fn acknowledged(&mut self, draft: &Draft) -> Result<(), String> {
        for file in draft.files {
            if self.read(file).await.is_ok_and(|read| read == draft.bytes) {
                let expected = self.expected.entry(file).or_default();
                expected.contents = vec![draft.bytes.clone()];
                expected.is_there = true;
                return Ok(());
            }
        }
        let [asked, of] = draft.files.map(|file| &self.files[file]);
        let length = draft.bytes.len();
        Err(format!(
            "{length} bytes were acknowledged and are neither {asked} nor {of}"
        ))
    }

    async fn rewrite(&mut self, file: usize) -> Result<(), String> {
        self.world.replays.label(file);
        _ = self.world.fs.rewrite(&self.files[file]).await;
        self.look(file).await
    }

    async fn look(&self, file: usize) -> Result<(), String> {
        let path = &self.files[file];
        let expected = self.expected.get(&file);
        match (self.read(file).await, expected) {
            (Ok(read), Some(expected)) if expected.contents.contains(&read) => Ok(()),
            (Ok(read), _) => Err(format!("{path} has {} bytes that nobody published", read.len())),
            (Err(_), None) => Ok(()),
            (Err(_), Some(expected)) if !expected.is_there => Ok(()),
            (Err(wrong), Some(_)) => Err(format!("{path} was acknowledged: {wrong}")),
        }
    }

    async fn read(&self, file: usize) -> Result<Vec<u8>, String> {
        let reader = self.world.fs.open(&self.files[file]).await;
        let mut stream = reader.map_err(|error| told(&error))?.stream(0);
        let mut read = Vec::new();
        while let Some(part) = stream.next().await {
            read.extend_from_slice(&part.map_err(|error| told(&error))?);
        }
        Ok(read)
    }
}
