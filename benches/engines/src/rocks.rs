//! RocksDB; each commit is a batch that is written with `sync`. Options are those that its wiki names for a start, and
//! Bloom filters, since half of what is looked for when a file is made is not there.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, ReadOptions, Snapshot,
    WriteBatch, WriteOptions,
};

use crate::engine::{CACHE_BYTES, Engine, Pair, View, Writes};

pub(crate) struct Rocks {
    database: DB,
}

impl Rocks {
    pub(crate) fn open(directory: &Path) -> Self {
        let cache = Cache::new_lru_cache(CACHE_BYTES).expect("a cache");
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_bloom_filter(10.0, false);
        table.set_cache_index_and_filter_blocks(true);
        table.set_block_size(16 << 10);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_bytes_per_sync(1 << 20);
        options.increase_parallelism(2);
        Self {
            database: DB::open(&options, directory).expect("it opens"),
        }
    }
}

impl Engine for Rocks {
    fn view(&self) -> Box<dyn View + '_> {
        Box::new(self.database.snapshot())
    }

    fn commit(&self, writes: &Writes) {
        let mut batch = WriteBatch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.database.write_opt(batch, &options).expect("durable");
    }
}

impl View for Snapshot<'_> {
    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        Self::get(self, key).expect("readable")
    }

    fn scan(&mut self, start: &[u8], end: &[u8], limit: usize) -> Vec<Pair> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let found = self.iterator_opt(IteratorMode::From(start, Direction::Forward), options);
        let pair = |found: Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>| {
            let (key, value) = found.expect("readable");
            (key.into_vec(), value.into_vec())
        };
        found.take(limit).map(pair).collect()
    }
}
