//! Counter mode written once for vectors of any width. Each kernel's file defines `Vector`, `BLOCKS` (AES blocks in one),
//! `WIDE` (vectors in flight, 8 or more) and the operations on them, and takes the rest from here.

/// All rounds from `$from` on but the last, of all states in step. Written out and not a function: the compiler would leave a
/// loop a loop, and call a function with the states in memory.
macro_rules! rounds {
    ($keys:ident, $states:ident, $from:expr) => {
        rounds!($keys, $states, $from, 0 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    ($keys:ident, $states:ident, $from:expr, $($done:literal)*) => {
        $(
            if $from + $done < KEYS - 1 {
                let key = key($keys, $from + $done);
                for state in &mut $states {
                    *state = encrypt(*state, key);
                }
            }
        )*
    };
}

/// Defines `plain`, `cached` and `fill` from the operations in scope. `$features` are what those need.
macro_rules! counter_mode {
    ($features:literal) => {
        /// Bytes of a vector.
        pub(super) const WIDTH: usize = 16 * BLOCKS;

        /// Transforms a text whose first block has `counter`. The low 64 bits of the counter must not overflow in it.
        #[target_feature(enable = $features)]
        pub(super) fn plain<const KEYS: usize>(keys: &RoundKeys<KEYS>, counter: u128, mut text: Text<'_>) {
            let mut next = counters(counter);
            while let Some(group) = text.take_vectors::<WIDE, WIDTH>() {
                finish::<WIDE, 1, KEYS, false>(keys, plain_states(keys, &mut next), group);
            }
            if let Some(group) = text.take_vectors::<8, WIDTH>() {
                finish::<8, 1, KEYS, false>(keys, plain_states(keys, &mut next), group);
            }
            if let Some(group) = text.take_vectors::<4, WIDTH>() {
                finish::<4, 1, KEYS, false>(keys, plain_states(keys, &mut next), group);
            }
            if let Some(group) = text.take_vectors::<2, WIDTH>() {
                finish::<2, 1, KEYS, false>(keys, plain_states(keys, &mut next), group);
            }
            if let Some(group) = text.take_vectors::<1, WIDTH>() {
                finish::<1, 1, KEYS, false>(keys, plain_states(keys, &mut next), group);
            }
            if text.len() > 0 {
                finish_part::<1, KEYS>(keys, plain_states(keys, &mut next), text);
            }
        }

        /// As `plain`, with `table` filled for this counter. Only its low 40 bits may change within the text. `around`: what is
        /// written goes to memory around the cache, which pays for copies that no cache can hold.
        #[target_feature(enable = $features)]
        pub(super) fn cached<const KEYS: usize>(
            keys: &RoundKeys<KEYS>,
            table: &Table,
            counter: u128,
            text: Text<'_>,
            around: bool,
        ) {
            let mut run = Run::at(keys, counter);
            if around {
                cached_from::<KEYS, true>(keys, table, &mut run, text);
                aesni::finish_stores();
            } else {
                cached_from::<KEYS, false>(keys, table, &mut run, text);
            }
        }

        /// As `cached`, from where `run` is.
        #[inline]
        #[target_feature(enable = $features)]
        fn cached_from<const KEYS: usize, const AROUND: bool>(
            keys: &RoundKeys<KEYS>,
            table: &Table,
            run: &mut Run,
            mut text: Text<'_>,
        ) {
            while let Some(group) = text.take_vectors::<WIDE, WIDTH>() {
                finish::<WIDE, 3, KEYS, AROUND>(keys, cached_states(keys, table, run), group);
            }
            if let Some(group) = text.take_vectors::<8, WIDTH>() {
                finish::<8, 3, KEYS, false>(keys, cached_states(keys, table, run), group);
            }
            if let Some(group) = text.take_vectors::<4, WIDTH>() {
                finish::<4, 3, KEYS, false>(keys, cached_states(keys, table, run), group);
            }
            if let Some(group) = text.take_vectors::<2, WIDTH>() {
                finish::<2, 3, KEYS, false>(keys, cached_states(keys, table, run), group);
            }
            if let Some(group) = text.take_vectors::<1, WIDTH>() {
                finish::<1, 3, KEYS, false>(keys, cached_states(keys, table, run), group);
            }
            if text.len() > 0 {
                finish_part::<3, KEYS>(keys, cached_states(keys, table, run), text);
            }
        }

        /// Fills `table` for all counters that differ from `counter` in the low 40 bits only.
        #[target_feature(enable = $features)]
        pub(super) fn fill<const KEYS: usize>(keys: &RoundKeys<KEYS>, counter: u128, table: &mut Table) {
            let first = [key(keys, 0), key(keys, 1), key(keys, 2)];
            let zero = base(keys, counter);
            let mut next = counters(counter & !0xff);
            for row in (0..RUN_BLOCKS).step_by(BLOCKS) {
                let start = xor(big_endian(next), first[0]);
                let state = encrypt(encrypt(start, first[1]), first[2]);
                store(table.rows_mut(row), xor(state, zero));
                next = advance(next, BLOCKS as u64);
            }
            table.close();
        }

        /// Where in a run of 256 counters a text is.
        struct Run {
            counter: u128,
            /// The state after two rounds of the run's first counter, in each block.
            base: Vector,
            /// The same of the run after it. It takes a chain of instructions as long as a sixth of a run, so it is made long
            /// before it is needed.
            following: Vector,
        }

        impl Run {
            #[inline]
            #[target_feature(enable = $features)]
            fn at<const KEYS: usize>(keys: &RoundKeys<KEYS>, counter: u128) -> Self {
                Self {
                    counter,
                    base: base(keys, counter),
                    following: base(keys, counter.wrapping_add(RUN_BLOCKS as u128)),
                }
            }
        }

        /// The state after two rounds of the first counter of the run that `counter` is in.
        #[inline]
        #[target_feature(enable = $features)]
        fn base<const KEYS: usize>(keys: &RoundKeys<KEYS>, counter: u128) -> Vector {
            let block = aesni::load(&(counter & !0xff).to_be_bytes());
            let start = aesni::xor(block, aesni::load(&keys.0[0]));
            let once = aesni::encrypt(start, aesni::load(&keys.0[1]));
            spread(aesni::encrypt(once, aesni::load(&keys.0[2])))
        }

        /// The key of one round in each block of a vector: a load that spreads costs no more than one that does not.
        #[inline]
        #[target_feature(enable = $features)]
        fn key<const KEYS: usize>(keys: &RoundKeys<KEYS>, round: usize) -> Vector {
            spread(aesni::load(&keys.0[round]))
        }

        /// States before round 1 of the next blocks.
        #[inline]
        #[target_feature(enable = $features)]
        fn plain_states<const N: usize, const KEYS: usize>(keys: &RoundKeys<KEYS>, next: &mut Vector) -> [Vector; N] {
            let first = key(keys, 0);
            let mut states = [*next; N];
            for (i, state) in states.iter_mut().enumerate() {
                *state = xor(big_endian(advance(*next, (BLOCKS * i) as u64)), first);
            }
            *next = advance(*next, (BLOCKS * N) as u64);
            states
        }

        /// States before round 3 of the next blocks.
        #[inline]
        #[target_feature(enable = $features)]
        fn cached_states<const N: usize, const KEYS: usize>(
            keys: &RoundKeys<KEYS>,
            table: &Table,
            run: &mut Run,
        ) -> [Vector; N] {
            let row = usize::from(run.counter as u8);
            let mut states = [run.base; N];
            for (i, state) in states.iter_mut().enumerate() {
                *state = xor(*state, load(table.rows(row + BLOCKS * i)));
            }
            run.counter = run.counter.wrapping_add((BLOCKS * N) as u128);
            if row + BLOCKS * N >= RUN_BLOCKS {
                let change = xor(run.base, run.following);
                for (i, state) in states.iter_mut().enumerate() {
                    let mask = beyond(row + BLOCKS * i + GROUP_BLOCKS_MAX - RUN_BLOCKS);
                    *state = xor(*state, and(change, load(mask)));
                }
                run.base = run.following;
                run.following = base(keys, run.counter.wrapping_add(RUN_BLOCKS as u128));
            }
            states
        }

        /// The rounds from `FROM` on, and the text.
        #[inline]
        #[target_feature(enable = $features)]
        fn finish<const N: usize, const FROM: usize, const KEYS: usize, const AROUND: bool>(
            keys: &RoundKeys<KEYS>,
            mut states: [Vector; N],
            text: Vectors<'_, N, WIDTH>,
        ) {
            rounds!(keys, states, FROM);
            finish_last::<N, KEYS, AROUND>(keys, states, text);
        }

        /// The last round, and the text.
        #[inline]
        #[target_feature(enable = $features)]
        fn finish_last<const N: usize, const KEYS: usize, const AROUND: bool>(
            keys: &RoundKeys<KEYS>,
            states: [Vector; N],
            mut text: Vectors<'_, N, WIDTH>,
        ) {
            let last = key(keys, KEYS - 1);
            for (i, state) in states.into_iter().enumerate() {
                let data = xor(load(&text.input()[i]), last);
                let done = encrypt_last(state, data);
                if AROUND {
                    store_around(&mut text.output()[i], done);
                } else {
                    store(&mut text.output()[i], done);
                }
            }
        }

        /// As `finish`, for less than a vector.
        #[inline]
        #[target_feature(enable = $features)]
        fn finish_part<const FROM: usize, const KEYS: usize>(
            keys: &RoundKeys<KEYS>,
            mut states: [Vector; 1],
            mut text: Text<'_>,
        ) {
            rounds!(keys, states, FROM);
            let [state] = states;
            let last = xor(load_part(text.input()), key(keys, KEYS - 1));
            store_part(text.output(), encrypt_last(state, last));
        }
    };
}

pub(super) use {counter_mode, rounds};
