#!/usr/bin/env python3
"""Makes the known answers of `vectors.txt` with Python's `cryptography`, without any of Strongroom's code:
python3 make.py > vectors.txt. The formats are those of docs/formats/edek.md.

One line each: suite, EZ key, key name, version, zone, EDEK, DEK, key check value; bytes in hex."""

import hashlib
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.keywrap import aes_key_wrap


def pattern(start, length):
    return bytes((start + 7 * i) % 256 for i in range(length))


def context(domain, name, version, zone):
    return domain + b"\0" + struct.pack(">H", len(name)) + name + struct.pack(">I", version) + zone


def ecb(key, data):
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(data)


def cmac(key, data):
    mac = CMAC(algorithms.AES(key))
    mac.update(data)
    return mac.finalize()


def derive(key, data):
    """CKM_AES_CBC_ENCRYPT_DATA with an IV of zeros."""
    return Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor().update(data)


def kw(key, name, version, zone, dek):
    wrapping = derive(key, hashlib.sha256(context(b"strongroom/kw/v1", name, version, zone)).digest())
    check = derive(key, hashlib.sha256(context(b"strongroom/kcv/v1", name, version, b"")).digest())
    edek = aes_key_wrap(wrapping, dek) + cmac(dek, b"strongroom/kw-check/v1")[:8]
    return edek, cmac(check, bytes(16))[:3]


def direct_kcv(key, name, version):
    return cmac(key, hashlib.sha256(context(b"strongroom/kcv/v1", name, version, b"")).digest())[:3]


def gcm(key, name, version, zone, dek, iv):
    check = hashlib.sha256(b"strongroom/dek-check/v1" + dek).digest()[:8]
    sealed = AESGCM(key).encrypt(iv, dek + check, context(b"strongroom/gcm/v1", name, version, zone))
    return iv + sealed, direct_kcv(key, name, version)


def hadoop(key, name, version, dek, iv):
    """Hadoop's arithmetic by hand: every block of the key stream is an encrypted counter, which wraps at 2^128."""
    counter = int.from_bytes(bytes(b ^ 0xFF for b in iv), "big")
    blocks = -(-len(dek) // 16)
    stream = b"".join(ecb(key, ((counter + i) % 2**128).to_bytes(16, "big")) for i in range(blocks))
    return iv + bytes(a ^ b for a, b in zip(dek, stream)), direct_kcv(key, name, version)


def line(suite, key, name, version, zone, made, dek):
    edek, kcv = made
    print(suite, key.hex(), name.decode(), version, zone.hex(), edek.hex(), dek.hex(), kcv.hex())


zone, name, version = pattern(3, 16), b"payroll.eu-1", 0x01020304
key, dek = pattern(1, 32), pattern(90, 32)
line("kw", key, name, version, zone, kw(key, name, version, zone, dek), dek)
line("gcm", key, name, version, zone, gcm(key, name, version, zone, dek, pattern(40, 12)), dek)
for size in (16, 24, 32):
    for iv in (pattern(60, 16), bytes(16), bytes(15) + b"\1"):
        key, dek = pattern(size, size), pattern(91, size)
        line("hadoop", key, name, version, zone, hadoop(key, name, version, dek, iv), dek)
