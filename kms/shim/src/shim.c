/* A PKCS#11 module that stands in front of another one and fails when a test asks for it.
 *
 * It finds what it needs beside itself: `module`, a link to the module that does the work, and `control`, a file that both
 * sides map or write: what is asked for and what was counted, as 64-bit words (lib.rs has the other end of this layout).
 * A call costs a look at that memory and no system call. Only the functions of PKCS#11 2.40 are offered. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long ulong;
typedef _Atomic uint64_t word;
struct functions { unsigned char version[2]; void *entry[68]; };
struct attribute { ulong type; void *value; ulong length; };
struct mechanism { ulong type; void *parameter; ulong length; };
struct gcm { unsigned char *iv; ulong iv_length, iv_bits, aad, aad_length, tag_bits; };

enum function {
    INITIALIZE, FINALIZE, GET_INFO, GET_FUNCTION_LIST, GET_SLOT_LIST, GET_SLOT_INFO, GET_TOKEN_INFO, GET_MECHANISM_LIST,
    GET_MECHANISM_INFO, OPEN_SESSION = 12, CLOSE_SESSION, CLOSE_ALL_SESSIONS, LOGIN = 18, CREATE_OBJECT = 20, COPY_OBJECT,
    DESTROY_OBJECT, GET_OBJECT_SIZE, GET_ATTRIBUTE_VALUE, SET_ATTRIBUTE_VALUE, FIND_OBJECTS = 27, ENCRYPT_INIT = 29, ENCRYPT,
    DECRYPT_INIT = 33, DECRYPT, DIGEST_KEY = 40, SIGN_INIT = 42, SIGN, SIGN_RECOVER_INIT = 46, VERIFY_INIT = 48,
    VERIFY_RECOVER_INIT = 52, GENERATE_KEY = 58, GENERATE_KEY_PAIR, WRAP_KEY, UNWRAP_KEY, DERIVE_KEY, GENERATE_RANDOM = 64,
    FUNCTIONS = 68
};
enum fault { NONE, ERROR, ERROR_AFTER, DELAY, HANG, CLOSE_SESSIONS, CRASH, CRASH_AFTER, FLIP, OTHER_OBJECT, SKIP, LEAK, DENY, OWN_IV, IGNORE };
enum { OK = 0, GENERAL_ERROR = 5, DEVICE_REMOVED = 0x32, PIN_INCORRECT = 0xa0, PIN_LOCKED = 0xa4, TOKEN_NOT_PRESENT = 0xe0 };
enum { CKA_VALUE = 0x11, CKA_VALUE_LEN = 0x161, CKM_AES_KEY_GEN = 0x1080, CKM_AES_GCM = 0x1087, TEMPLATE_MAX = 64, IV_MAX = 16 };

struct rule { word kind, value, extra, remaining, chance, seed; };
struct control {
    word lock_after, wrong_pins, renumber, gone, returns, spare[11];
    word calls[FUNCTIONS], fired[FUNCTIONS];
    struct rule rules[FUNCTIONS];
};

static struct functions *real, ours;
static struct control *control;
static ulong slot;
static word returns_seen, sessions, connections, mask;

static ulong forward(int f, int arity, ulong *a) {
    void *e = real->entry[f];
    switch (arity) {
    case 1: return ((ulong (*)(ulong))e)(a[0]);
    case 2: return ((ulong (*)(ulong, ulong))e)(a[0], a[1]);
    case 3: return ((ulong (*)(ulong, ulong, ulong))e)(a[0], a[1], a[2]);
    case 4: return ((ulong (*)(ulong, ulong, ulong, ulong))e)(a[0], a[1], a[2], a[3]);
    case 5: return ((ulong (*)(ulong, ulong, ulong, ulong, ulong))e)(a[0], a[1], a[2], a[3], a[4]);
    case 6: return ((ulong (*)(ulong, ulong, ulong, ulong, ulong, ulong))e)(a[0], a[1], a[2], a[3], a[4], a[5]);
    default:
        return ((ulong (*)(ulong, ulong, ulong, ulong, ulong, ulong, ulong, ulong))e)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
    }
}

/* Object handles as callers see them: while renumbering is on, every new connection swaps them among neighbours, so that a
 * handle of an earlier connection names another object. The swap is its own inverse. */
static ulong swapped(ulong handle) { return handle ? ((handle - 1) ^ mask) + 1 : 0; }

static void swap_at(ulong pointer) {
    if (pointer) *(ulong *)pointer = swapped(*(ulong *)pointer);
}

static void swap_arguments(int f, ulong *a) {
    switch (f) {
    case COPY_OBJECT: case DESTROY_OBJECT: case GET_OBJECT_SIZE: case GET_ATTRIBUTE_VALUE: case SET_ATTRIBUTE_VALUE: case DIGEST_KEY:
        a[1] = swapped(a[1]);
        break;
    case WRAP_KEY:
        a[3] = swapped(a[3]); /* fall through */
    case ENCRYPT_INIT: case DECRYPT_INIT: case SIGN_INIT: case SIGN_RECOVER_INIT: case VERIFY_INIT: case VERIFY_RECOVER_INIT:
    case UNWRAP_KEY: case DERIVE_KEY:
        a[2] = swapped(a[2]);
        break;
    }
}

/* Where a function puts a new object's handle, or 0. */
static ulong new_handle(int f, ulong *a) {
    switch (f) {
    case CREATE_OBJECT: return a[3];
    case COPY_OBJECT: case GENERATE_KEY: return a[4];
    case DERIVE_KEY: return a[5];
    case UNWRAP_KEY: return a[7];
    default: return 0;
    }
}

static void swap_results(int f, ulong *a) {
    if (f == FIND_OBJECTS)
        for (ulong i = 0; i < *(ulong *)a[3]; i++) swap_at(a[1] + i * sizeof(ulong));
    if (f == GENERATE_KEY_PAIR) swap_at(a[6]), swap_at(a[7]);
    swap_at(new_handle(f, a));
}

static struct attribute *value_asked_for(ulong *a) {
    struct attribute *list = (void *)a[2];
    for (ulong i = 0; i < a[3]; i++)
        if (list[i].type == CKA_VALUE && list[i].value) return list + i;
    return 0;
}

/* The bytes that a call answers with; none in a call that only asks for their number. */
static unsigned char *output(int f, ulong *a, ulong *length) {
    struct attribute *value;
    switch (f) {
    case GET_ATTRIBUTE_VALUE:
        value = value_asked_for(a);
        *length = value ? value->length : 0;
        return value ? value->value : 0;
    case GENERATE_RANDOM:
        *length = a[2];
        return (void *)a[1];
    case WRAP_KEY:
        *length = *(ulong *)a[5];
        return (void *)a[4];
    case ENCRYPT: case DECRYPT: case SIGN:
        *length = *(ulong *)a[4];
        return (void *)a[3];
    default:
        *length = 0;
        return 0;
    }
}

static int gives_bytes(int f) {
    return f == GET_ATTRIBUTE_VALUE || f == WRAP_KEY || f == ENCRYPT || f == DECRYPT || f == SIGN || f == GENERATE_RANDOM;
}

static uint64_t scrambled(uint64_t z) { /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t drawn(struct rule *rule) { return scrambled(atomic_fetch_add(&rule->seed, 0x9e3779b97f4a7c15u)); }

/* The fault that this call meets. */
static enum fault take(int f, ulong *a) {
    struct rule *rule = control->rules + f;
    enum fault kind = rule->kind;
    ulong length;
    if (kind == NONE) return NONE;
    if ((kind == FLIP || kind == SKIP) && gives_bytes(f) && !output(f, a, &length)) return NONE;
    if ((drawn(rule) >> 32) >= rule->chance) return NONE;
    uint64_t left = rule->remaining;
    do {
        if (left == 0) return NONE;
    } while (left != UINT64_MAX && !atomic_compare_exchange_weak(&rule->remaining, &left, left - 1));
    control->fired[f]++;
    return kind;
}

static void sleep_ms(uint64_t ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left)) {}
}

static void crash(void) {
    volatile uintptr_t nowhere = 16;
    for (;;) *(volatile char *)nowhere = 0;
}

static void close_sessions(void) {
    ulong a[] = {slot};
    sessions = 0;
    forward(CLOSE_ALL_SESSIONS, 1, a);
}

static void leak(ulong bytes) {
    volatile char *leaked = malloc(bytes);
    for (ulong i = 0; leaked && i < bytes; i += 4096) leaked[i] = 1;
}

/* A key object as the caller asked for, but a fresh one: its own object goes. */
static void exchange_object(int f, ulong *a) {
    ulong at = f == UNWRAP_KEY ? 5 : f == DERIVE_KEY ? 3 : 2, *handle = (void *)new_handle(f, a);
    struct attribute *asked = (void *)a[at], template[TEMPLATE_MAX];
    ulong count = 0, length = 32, other;
    for (ulong i = 0; i < a[at + 1] && count < TEMPLATE_MAX - 1; i++)
        if (asked[i].type != CKA_VALUE_LEN) template[count++] = asked[i];
    template[count++] = (struct attribute){CKA_VALUE_LEN, &length, sizeof length};
    struct mechanism generate = {CKM_AES_KEY_GEN, 0, 0};
    ulong make[] = {a[0], (ulong)&generate, (ulong)template, count, (ulong)&other}, destroy[] = {a[0], *handle};
    if (forward(GENERATE_KEY, 5, make) != OK) return;
    forward(DESTROY_OBJECT, 2, destroy);
    *handle = other;
}

static void flip(int f, ulong *a) {
    ulong length;
    unsigned char *bytes = output(f, a, &length);
    if (!bytes || !length) return;
    uint64_t bit = drawn(control->rules + f) % (length * 8);
    bytes[bit / 8] ^= 1 << bit % 8;
}

/* A boolean attribute of that type reads back as false. */
static void deny(ulong *a, ulong type) {
    struct attribute *list = (void *)a[2];
    for (ulong i = 0; i < a[3]; i++)
        if (list[i].type == type && list[i].value) *(unsigned char *)list[i].value = 0;
}

/* The call with a template of its own, which lacks the attribute that the token ignores. */
static ulong generate_ignoring(int arity, ulong *a, ulong type) {
    struct attribute *asked = (void *)a[2], template[TEMPLATE_MAX];
    ulong count = 0;
    for (ulong i = 0; i < a[3] && count < TEMPLATE_MAX; i++)
        if (asked[i].type != type) template[count++] = asked[i];
    ulong generate[] = {a[0], a[1], (ulong)template, count, a[4]};
    return forward(GENERATE_KEY, arity, generate);
}

/* An encryption that the calling thread has begun, of a token that makes its own IVs: its IV, and where the caller expects it. */
static _Thread_local struct { unsigned char bytes[IV_MAX], *told; ulong length; } own_iv;

/* The token works with an IV that it draws; the caller's parameters stay as they are until there is a ciphertext. */
static ulong encrypt_init_with_own_iv(int arity, ulong *a) {
    struct mechanism mechanism = *(struct mechanism *)a[1];
    struct gcm *asked = mechanism.parameter, parameters;
    if (mechanism.type != CKM_AES_GCM || asked->iv_length > IV_MAX) return forward(ENCRYPT_INIT, arity, a);
    ulong random[] = {a[0], (ulong)own_iv.bytes, asked->iv_length}, init[] = {a[0], (ulong)&mechanism, a[2]};
    ulong rv = forward(GENERATE_RANDOM, 3, random);
    if (rv != OK) return rv;
    parameters = *asked, parameters.iv = own_iv.bytes, mechanism.parameter = &parameters;
    rv = forward(ENCRYPT_INIT, arity, init);
    own_iv.told = rv == OK ? asked->iv : 0, own_iv.length = asked->iv_length;
    return rv;
}

static void tell_own_iv(void) {
    if (own_iv.told) memcpy(own_iv.told, own_iv.bytes, own_iv.length);
    own_iv.told = 0;
}

/* What a token that was pulled out answers. One that is back is seen by those only who initialise the library anew. */
static int is_gone(int f, ulong *a, ulong *rv) {
    if (!control->gone && returns_seen == control->returns) return 0;
    if (f <= GET_FUNCTION_LIST || f == GET_SLOT_INFO || (f == GET_SLOT_LIST && !(unsigned char)a[0])) return 0;
    *rv = f <= OPEN_SESSION ? TOKEN_NOT_PRESENT : DEVICE_REMOVED;
    if (f == GET_SLOT_LIST) *(ulong *)a[2] = 0, *rv = OK;
    return 1;
}

/* The login, by a token that locks after some wrong PINs, as real ones do. */
static ulong log_in(int arity, ulong *a) {
    if (control->lock_after && control->wrong_pins >= control->lock_after) return PIN_LOCKED;
    ulong rv = forward(LOGIN, arity, a);
    if (rv == PIN_INCORRECT) control->wrong_pins++;
    if (rv == OK) control->wrong_pins = 0;
    return rv;
}

static void note_sessions(int f, ulong *a) {
    if (f == OPEN_SESSION) {
        slot = a[0];
        if (sessions++ == 0) mask = control->renumber ? ++connections * 5 & 7 : 0;
    }
    if (f == CLOSE_SESSION && sessions) sessions--;
    if (f == CLOSE_ALL_SESSIONS) sessions = 0;
}

static ulong call(int f, int arity, ulong *a) {
    ulong rv;
    control->calls[f]++;
    if (f == INITIALIZE) returns_seen = control->returns;
    if (is_gone(f, a, &rv)) {
        control->fired[f]++;
        return rv;
    }
    struct rule *rule = control->rules + f;
    enum fault fault = take(f, a);
    switch (fault) {
    case ERROR: return rule->value;
    case CLOSE_SESSIONS: close_sessions(); return rule->value;
    case DELAY: sleep_ms(rule->value + (rule->extra ? drawn(rule) % rule->extra : 0)); break;
    case HANG: sleep_ms(rule->value); break;
    case CRASH: crash(); break;
    case SKIP: return OK;
    case LEAK: leak(rule->value); break;
    default: break;
    }
    swap_arguments(f, a);
    if (f == LOGIN) rv = log_in(arity, a);
    else if (f == ENCRYPT_INIT && fault == OWN_IV) rv = encrypt_init_with_own_iv(arity, a);
    else if (f == GENERATE_KEY && fault == IGNORE) rv = generate_ignoring(arity, a, rule->value);
    else rv = forward(f, arity, a);
    if (fault == CRASH_AFTER) crash();
    if (fault == DENY && f == GET_ATTRIBUTE_VALUE) deny(a, rule->value); /* some attributes are there though the call failed */
    if (rv != OK) return rv;
    if (f == ENCRYPT && a[3]) tell_own_iv();
    if (fault == ERROR_AFTER) return rule->value;
    if (fault == OTHER_OBJECT && new_handle(f, a)) exchange_object(f, a);
    if (fault == FLIP) flip(f, a);
    note_sessions(f, a);
    swap_results(f, a);
    return OK;
}

#define F1(f) static ulong entry_##f(ulong a) { ulong v[] = {a}; return call(f, 1, v); }
#define F2(f) static ulong entry_##f(ulong a, ulong b) { ulong v[] = {a, b}; return call(f, 2, v); }
#define F3(f) static ulong entry_##f(ulong a, ulong b, ulong c) { ulong v[] = {a, b, c}; return call(f, 3, v); }
#define F4(f) static ulong entry_##f(ulong a, ulong b, ulong c, ulong d) { ulong v[] = {a, b, c, d}; return call(f, 4, v); }
#define F5(f) static ulong entry_##f(ulong a, ulong b, ulong c, ulong d, ulong e) { ulong v[] = {a, b, c, d, e}; return call(f, 5, v); }
#define F6(f) static ulong entry_##f(ulong a, ulong b, ulong c, ulong d, ulong e, ulong g) { ulong v[] = {a, b, c, d, e, g}; return call(f, 6, v); }
#define F8(f) static ulong entry_##f(ulong a, ulong b, ulong c, ulong d, ulong e, ulong g, ulong h, ulong i) { ulong v[] = {a, b, c, d, e, g, h, i}; return call(f, 8, v); }
/* Every function but C_GetFunctionList, by its place in the list, with its number of arguments. */
#define EACH(_) \
    _(0, 1) _(1, 1) _(2, 1) _(4, 3) _(5, 2) _(6, 2) _(7, 3) _(8, 3) _(9, 4) _(10, 3) _(11, 5) _(12, 5) _(13, 1) _(14, 1) \
    _(15, 2) _(16, 3) _(17, 5) _(18, 4) _(19, 1) _(20, 4) _(21, 5) _(22, 2) _(23, 3) _(24, 4) _(25, 4) _(26, 3) _(27, 4) \
    _(28, 1) _(29, 3) _(30, 5) _(31, 5) _(32, 3) _(33, 3) _(34, 5) _(35, 5) _(36, 3) _(37, 2) _(38, 5) _(39, 3) _(40, 2) \
    _(41, 3) _(42, 3) _(43, 5) _(44, 3) _(45, 3) _(46, 3) _(47, 5) _(48, 3) _(49, 5) _(50, 3) _(51, 3) _(52, 3) _(53, 5) \
    _(54, 5) _(55, 5) _(56, 5) _(57, 5) _(58, 5) _(59, 8) _(60, 6) _(61, 8) _(62, 6) _(63, 3) _(64, 3) _(65, 1) _(66, 1) \
    _(67, 3)
#define DEFINE(f, arity) F##arity(f)
#define ENTER(f, arity) ours.entry[f] = (void *)entry_##f;
EACH(DEFINE)

ulong C_GetFunctionList(struct functions **list);

/* A file beside this library. */
static int beside(const char *name, char *path, size_t size) {
    Dl_info self;
    if (!dladdr((void *)C_GetFunctionList, &self)) return 0;
    const char *slash = strrchr(self.dli_fname, '/');
    int folder = slash ? (int)(slash - self.dli_fname + 1) : 0;
    return snprintf(path, size, "%.*s%s", folder, self.dli_fname, name) < (int)size;
}

static int map_control(void) {
    char path[4096];
    int file = beside("control", path, sizeof path) ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    void *at = mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (at == MAP_FAILED) return 0;
    control = at;
    return 1;
}

ulong C_GetFunctionList(struct functions **list) {
    char path[4096];
    if (!real) {
        if (!map_control() || !beside("module", path, sizeof path)) return GENERAL_ERROR;
        void *library = dlopen(path, RTLD_NOW);
        ulong (*get)(struct functions **) = library ? (ulong (*)(struct functions **))dlsym(library, "C_GetFunctionList") : 0;
        if (!get || get(&real)) return GENERAL_ERROR;
        ours.version[0] = 2, ours.version[1] = 40;
        EACH(ENTER)
        ours.entry[GET_FUNCTION_LIST] = (void *)C_GetFunctionList;
    }
    *list = &ours;
    return OK;
}
