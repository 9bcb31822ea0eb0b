// AES-CTR of Intel's ipsec-mb, as a program that strongroom-compare drives over pipes and that times itself:
//   ipsec-peer KEY IV BYTES ACROSS    KEY and IV in hexadecimal; ACROSS 1: from one buffer to another, 0: in place
// One request a line. "show": encrypts the bytes (31 p + p / 256) mod 256 and writes them. "run N": does it N times over and
// writes the nanoseconds that took. Built by ci/bench: cc -O2 ipsec-peer.c -lIPSec_MB

#include <intel-ipsec-mb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LINE = 64, ALIGNMENT = 64, IV_BYTES = 16 };

static DECLARE_ALIGNED(uint32_t expanded[60], 16);
static DECLARE_ALIGNED(uint32_t unused[60], 16);
static uint8_t key[32], iv[IV_BYTES];
static size_t key_bytes;

static size_t unhex(const char *text, uint8_t *to, size_t most) {
    size_t count = 0;
    unsigned byte;
    for (; count < most && sscanf(text + 2 * count, "%2x", &byte) == 1; count++)
        to[count] = (uint8_t)byte;
    return count;
}

static uint8_t *buffer(size_t bytes) {
    size_t room = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    uint8_t *start = aligned_alloc(ALIGNMENT, room);
    if (start == NULL)
        exit(1);
    memset(start, 0x5a, room);
    return start;
}

static void encrypt(IMB_MGR *manager, const uint8_t *from, uint8_t *to, size_t bytes) {
    IMB_JOB *job = IMB_GET_NEXT_JOB(manager);
    memset(job, 0, sizeof *job);
    job->cipher_mode = IMB_CIPHER_CNTR;
    job->cipher_direction = IMB_DIR_ENCRYPT;
    job->chain_order = IMB_ORDER_CIPHER_HASH;
    job->hash_alg = IMB_AUTH_NULL;
    job->enc_keys = expanded;
    job->key_len_in_bytes = key_bytes;
    job->iv = iv;
    job->iv_len_in_bytes = IV_BYTES;
    job->src = from;
    job->dst = to;
    job->msg_len_to_cipher_in_bytes = bytes;
    job = IMB_SUBMIT_JOB_NOCHECK(manager);
    if (job == NULL)
        job = IMB_FLUSH_JOB(manager);
    if (job == NULL || job->status != IMB_STATUS_COMPLETED)
        exit(1);
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count != 5)
        return 2;
    key_bytes = unhex(arguments[1], key, sizeof key);
    unhex(arguments[2], iv, sizeof iv);
    size_t bytes = strtoull(arguments[3], NULL, 10);
    uint8_t *from = buffer(bytes);
    uint8_t *to = arguments[4][0] == '1' ? buffer(bytes) : from;

    IMB_ARCH architecture;
    IMB_MGR *manager = alloc_mb_mgr(0);
    if (manager == NULL)
        return 1;
    init_mb_mgr_auto(manager, &architecture);
    if (key_bytes == 16)
        IMB_AES_KEYEXP_128(manager, key, expanded, unused);
    else
        IMB_AES_KEYEXP_256(manager, key, expanded, unused);

    char line[LINE];
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strcmp(line, "show\n") == 0) {
            for (size_t p = 0; p < bytes; p++)
                from[p] = (uint8_t)(p * 31 + p / 256);
            encrypt(manager, from, to, bytes);
            fwrite(to, 1, bytes, stdout);
        } else {
            uint64_t repetitions = strtoull(line + strlen("run "), NULL, 10), start = now();
            for (uint64_t done = 0; done < repetitions; done++)
                encrypt(manager, from, to, bytes);
            printf("%llu\n", (unsigned long long)(now() - start));
        }
        fflush(stdout);
    }
    return 0;
}
