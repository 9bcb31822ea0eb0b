//! AES-CTR and AES-GCM of others, each as fast as its interface allows: keys are expanded beforehand, each call names its
//! position (CTR) or nonce (GCM), since that is what random access to files asks for.
#![allow(unsafe_code, reason = "AWS-LC's CTR between two buffers is there in C only")]

use std::ptr;

use aes::{
    Aes128, Aes256,
    cipher::{BlockCipherEncrypt, InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper, consts::U16},
};
use ctr::{CtrCore, flavors::Ctr128BE};
use openssl::{cipher::Cipher, cipher_ctx::CipherCtx};
use strongroom_dataplane::{Backend, Ctr, CtrKey};

/// AES-CTR of one message after another, all from the same initial counter.
pub(crate) trait CtrCipher {
    fn name(&self) -> &'static str;

    /// Whether it is ours.
    fn is_ours(&self) -> bool {
        false
    }

    fn in_place(&mut self, bytes: &mut [u8]);
    fn across(&mut self, from: &[u8], to: &mut [u8]);

    fn in_place_times(&mut self, bytes: &mut [u8], count: usize) {
        (0..count).for_each(|_| self.in_place(bytes));
    }

    fn across_times(&mut self, from: &[u8], to: &mut [u8], count: usize) {
        (0..count).for_each(|_| self.across(from, to));
    }
}

/// The initial counter of every message.
pub(crate) const IV: [u8; 16] = *b"an initial count";

/// All that can do AES-CTR with a key of 16 or 32 bytes.
pub(crate) fn ctr_ciphers(key: &'static [u8]) -> Vec<Box<dyn CtrCipher>> {
    let mut ciphers: Vec<Box<dyn CtrCipher>> = Vec::new();
    for backend in Backend::all()
        .filter(|backend| backend.name() != "portable" || *backend == Backend::best())
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        ciphers.push(Box::new(Own::new(key, backend, true)));
        if backend == Backend::best() && backend.name() != "portable" {
            ciphers.push(Box::new(Own::new(key, backend, false)));
        }
    }
    ciphers.push(Box::new(AwsLc::new(key)));
    ciphers.push(Box::new(OpenSsl::new(key)));
    match key.len() {
        16 => ciphers.push(Box::new(RustCrypto(Aes128::new_from_slice(key).expect("16 bytes")))),
        _ => ciphers.push(Box::new(RustCrypto(Aes256::new_from_slice(key).expect("32 bytes")))),
    }
    ciphers
}

/// Ours, warm or (`plain`) without the table.
struct Own {
    ctr: Ctr,
    name: &'static str,
    position: u64,
}

impl Own {
    fn new(key: &[u8], backend: Backend, warm: bool) -> Self {
        // Beyond 32 TiB there is no table: the same messages, then, with an IV that makes up for it.
        let position = if warm { 0 } else { 1 << 46 };
        let iv = u128::from_be_bytes(IV).wrapping_sub(u128::from(position / 16));
        let key = CtrKey::try_from(key).expect("16 or 32 bytes");
        let ctr = Ctr::with_backend(key, &iv.to_be_bytes(), backend);
        ctr.apply(position, &mut [0; 32 << 10]).expect("a position");
        let name = match (backend.name(), warm) {
            ("vaes512", true) => "vaes512",
            ("vaes512", false) => "vaes512-plain",
            ("vaes256", true) => "vaes256",
            ("vaes256", false) => "vaes256-plain",
            ("aes-ni", true) => "aes-ni",
            ("aes-ni", false) => "aes-ni-plain",
            _ => "portable",
        };
        Self { ctr, name, position }
    }
}

impl CtrCipher for Own {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_ours(&self) -> bool {
        true
    }

    fn in_place(&mut self, bytes: &mut [u8]) {
        self.ctr.apply(self.position, bytes).expect("a position");
    }

    fn across(&mut self, from: &[u8], to: &mut [u8]) {
        self.ctr.apply_to(self.position, from, to).expect("a position");
    }
}

struct RustCrypto<C>(C);

impl<C: BlockCipherEncrypt<BlockSize = U16>> RustCrypto<C> {
    fn start(&self) -> StreamCipherCoreWrapper<CtrCore<&C, Ctr128BE>> {
        StreamCipherCoreWrapper::from_core(CtrCore::inner_iv_init(&self.0, &IV.into()))
    }
}

impl<C: BlockCipherEncrypt<BlockSize = U16>> CtrCipher for RustCrypto<C> {
    fn name(&self) -> &'static str {
        "rustcrypto"
    }

    fn in_place(&mut self, bytes: &mut [u8]) {
        self.start().apply_keystream(bytes);
    }

    fn across(&mut self, from: &[u8], to: &mut [u8]) {
        self.start().apply_keystream_b2b(from, to);
    }
}

struct OpenSsl(CipherCtx);

impl OpenSsl {
    fn new(key: &[u8]) -> Self {
        let cipher = if key.len() == 16 {
            Cipher::aes_128_ctr()
        } else {
            Cipher::aes_256_ctr()
        };
        let mut context = CipherCtx::new().expect("memory");
        context
            .encrypt_init(Some(cipher), Some(key), Some(&IV))
            .expect("key and IV fit");
        Self(context)
    }
}

impl CtrCipher for OpenSsl {
    fn name(&self) -> &'static str {
        "openssl"
    }

    fn in_place(&mut self, bytes: &mut [u8]) {
        self.0.encrypt_init(None, None, Some(&IV)).expect("an IV");
        let count = bytes.len();
        self.0
            .cipher_update_inplace(bytes, count)
            .expect("CTR takes any length");
    }

    fn across(&mut self, from: &[u8], to: &mut [u8]) {
        self.0.encrypt_init(None, None, Some(&IV)).expect("an IV");
        self.0.cipher_update(from, Some(to)).expect("CTR takes any length");
    }
}

pub(crate) struct AwsLc(aws_lc_sys::AES_KEY);

impl AwsLc {
    pub(crate) fn new(key: &[u8]) -> Self {
        let mut expanded = std::mem::MaybeUninit::uninit();
        let bits = 8 * key.len() as u32;
        // SAFETY: the key has that many bits, and the second pointer is to room for an expanded key.
        let code = unsafe { aws_lc_sys::AES_set_encrypt_key(key.as_ptr(), bits, expanded.as_mut_ptr()) };
        assert_eq!(code, 0, "16 or 32 bytes");
        // SAFETY: success says that it was filled.
        Self(unsafe { expanded.assume_init() })
    }

    pub(crate) fn encrypt(&self, bytes: &mut [u8]) {
        let to = bytes.as_mut_ptr();
        self.crypt(to, to, bytes.len());
    }

    fn crypt(&self, from: *const u8, to: *mut u8, count: usize) {
        let (mut iv, mut pad, mut used) = (IV, [0; 16], 0);
        // SAFETY: callers pass `count` readable and writable bytes, the same or not overlapping, which AWS-LC allows.
        unsafe {
            aws_lc_sys::AES_ctr128_encrypt(
                from,
                to,
                count,
                ptr::from_ref(&self.0),
                iv.as_mut_ptr(),
                pad.as_mut_ptr(),
                &mut used,
            );
        }
    }
}

impl CtrCipher for AwsLc {
    fn name(&self) -> &'static str {
        "aws-lc"
    }

    fn in_place(&mut self, bytes: &mut [u8]) {
        self.encrypt(bytes);
    }

    fn across(&mut self, from: &[u8], to: &mut [u8]) {
        assert_eq!(from.len(), to.len());
        self.crypt(from.as_ptr(), to.as_mut_ptr(), to.len());
    }
}
