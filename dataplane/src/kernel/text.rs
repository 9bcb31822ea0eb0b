//! The bytes that a kernel transforms: read in one place and written in the same or another, so that one kernel serves
//! both.

use std::{marker::PhantomData, ptr, slice};

use aes::cipher::inout::InOutBuf;

/// Bytes to read and as many to write: the same ones, or two buffers that do not overlap.
pub(crate) struct Text<'t> {
    from: *const u8,
    to: *mut u8,
    len: usize,
    life: PhantomData<&'t mut [u8]>,
}

// SAFETY: it is what it was made from, a `&mut [u8]` alone or with a `&[u8]`, and both may go to another thread.
unsafe impl Send for Text<'_> {}

impl<'t> Text<'t> {
    #[inline]
    pub(crate) fn in_place(bytes: &'t mut [u8]) -> Self {
        let to = bytes.as_mut_ptr();
        Self {
            from: to,
            to,
            len: bytes.len(),
            life: PhantomData,
        }
    }

    /// # Panics
    /// If the lengths differ; callers check that first.
    #[inline]
    pub(crate) fn across(from: &'t [u8], to: &'t mut [u8]) -> Self {
        assert_eq!(from.len(), to.len(), "as many bytes out as in");
        Self {
            from: from.as_ptr(),
            to: to.as_mut_ptr(),
            len: to.len(),
            life: PhantomData,
        }
    }

    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Whether what is written goes elsewhere than where it was read.
    #[inline]
    pub(crate) fn is_copy(&self) -> bool {
        !ptr::eq(self.from, self.to)
    }

    /// The same text, lent.
    #[inline]
    pub(crate) fn again(&mut self) -> Text<'_> {
        Text { ..*self }
    }

    /// Cuts off the first `count` bytes.
    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Self {
        assert!(count <= self.len, "cut within the text");
        let head = Self {
            from: self.from,
            to: self.to,
            len: count,
            life: PhantomData,
        };
        // SAFETY: `count` is at most `len`, so the result is within the buffer or one past its end.
        self.from = unsafe { self.from.add(count) };
        // SAFETY: as above.
        self.to = unsafe { self.to.add(count) };
        self.len -= count;
        head
    }

    /// Cuts off the first `N` vectors of `W` bytes, if there are so many.
    #[inline]
    pub(crate) fn take_vectors<const N: usize, const W: usize>(&mut self) -> Option<Vectors<'t, N, W>> {
        if self.len < N * W {
            return None;
        }
        let head = self.take(N * W);
        Some(Vectors {
            from: head.from.cast(),
            to: head.to.cast(),
            life: PhantomData,
        })
    }

    /// The same bytes as RustCrypto names them.
    pub(super) fn into_inout(self) -> InOutBuf<'t, 't, u8> {
        // SAFETY: both constructors took slices that live for 't, of this length; what is written is either exactly what
        // is read or does not overlap it; and this value, which could lend them again, is gone.
        unsafe { InOutBuf::from_raw(self.from, self.to, self.len) }
    }

    #[inline]
    pub(crate) fn input(&self) -> &[u8] {
        // SAFETY: the constructors took `from` and `len` from a slice that lives for 't. `output`, which could write to the
        // same bytes, borrows this value exclusively.
        unsafe { slice::from_raw_parts(self.from, self.len) }
    }

    #[inline]
    pub(crate) fn output(&mut self) -> &mut [u8] {
        // SAFETY: `to` and `len` come from a slice borrowed exclusively for 't; what `input` lends ended with this borrow.
        unsafe { slice::from_raw_parts_mut(self.to, self.len) }
    }
}

/// Which side of a text is ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What is written is.
    Encrypt,
    /// What is read is.
    Decrypt,
}

/// `N` vectors of `W` bytes of a text.
pub(crate) struct Vectors<'t, const N: usize, const W: usize> {
    from: *const [[u8; W]; N],
    to: *mut [[u8; W]; N],
    life: PhantomData<&'t mut [u8]>,
}

impl<const N: usize, const W: usize> Vectors<'_, N, W> {
    /// The same vectors, lent.
    #[inline]
    pub(crate) fn again(&mut self) -> Vectors<'_, N, W> {
        Vectors { ..*self }
    }

    #[inline]
    pub(crate) fn input(&self) -> &[[u8; W]; N] {
        // SAFETY: `Text::take_vectors` found N * W bytes, and byte arrays have no alignment. `output` borrows exclusively.
        unsafe { &*self.from }
    }

    #[inline]
    pub(crate) fn output(&mut self) -> &mut [[u8; W]; N] {
        // SAFETY: as for `input`, with bytes that were borrowed exclusively.
        unsafe { &mut *self.to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_without_loss() {
        let from: Vec<u8> = (0..100).collect();
        let mut to = vec![0; 100];
        let mut text = Text::across(&from, &mut to);
        let mut head = text.take(3);
        assert_eq!(head.input(), &from[..3]);
        head.output().fill(0xaa);
        let mut vectors = text.take_vectors::<2, 16>().expect("97 bytes are left");
        assert_eq!(vectors.input()[1], from[19..35]);
        vectors.output()[1] = [0xbb; 16];
        assert_eq!(text.len(), 65);
        assert!(text.take_vectors::<8, 16>().is_none());
        assert_eq!(text.input(), &from[35..]);
        text.output().fill(0xcc);
        let expected = [&[0xaa; 3][..], &[0; 16], &[0xbb; 16], &[0xcc; 65]].concat();
        assert_eq!(to, expected);
    }
}
