/* A PKCS#11 module in front of SoftHSM2 that fails when a test asks for it. Tests compile it with `cc -shared`.
 *
 * In the directory $FAULTS, the file `<Function>` holds "CKR COUNT": the next COUNT calls of C_<Function> return CKR (hex)
 * instead of being made; 0xb3 (session handle invalid) also closes every session, as a token that was reset does.
 * 0x1eaf instead makes the call and leaks 64 MiB. The file `exportable` makes keys read back as having been
 * extractable. `logins` counts C_Login. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long ulong;
struct functions { unsigned char version[2]; void *entry[68]; };
struct attribute { ulong type; void *value; ulong length; };

enum { CLOSE_ALL_SESSIONS = 14, LOGIN = 18, GET_ATTRIBUTE_VALUE = 24, GENERATE_KEY = 58, WRAP_KEY = 60, UNWRAP_KEY, DERIVE_KEY };

static struct functions *real, ours;
static ulong slot;

static void in_directory(char *path, const char *name) {
    snprintf(path, 4096, "%s/%s", getenv("FAULTS"), name);
}

static ulong fault(const char *name) {
    char path[4096];
    ulong value;
    int count;
    in_directory(path, name);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    int found = fscanf(file, "%lx %d", &value, &count);
    fclose(file);
    if (found != 2) return 0;
    if (count <= 1) {
        remove(path);
    } else if ((file = fopen(path, "w"))) {
        fprintf(file, "%lx %d", value, count - 1);
        fclose(file);
    }
    if (value == 0xb3) ((ulong (*)(ulong))real->entry[CLOSE_ALL_SESSIONS])(slot);
    return value;
}

static ulong open_session(ulong id, ulong flags, void *application, void *notify, ulong *session) {
    slot = id;
    return ((ulong (*)(ulong, ulong, void *, void *, ulong *))real->entry[12])(id, flags, application, notify, session);
}

static ulong login(ulong session, ulong user, void *pin, ulong length) {
    char path[4096];
    in_directory(path, "logins");
    FILE *file = fopen(path, "a");
    if (file) { fputs("login\n", file); fclose(file); }
    ulong failed = fault("Login");
    if (failed == 0xdead) abort(); /* the outcome is never told */
    return failed ? failed : ((ulong (*)(ulong, ulong, void *, ulong))real->entry[LOGIN])(session, user, pin, length);
}

static ulong get_attribute_value(ulong session, ulong object, struct attribute *list, ulong count) {
    ulong result = ((ulong (*)(ulong, ulong, void *, ulong))real->entry[GET_ATTRIBUTE_VALUE])(session, object, list, count);
    char path[4096];
    in_directory(path, "exportable");
    FILE *file = fopen(path, "r");
    if (!file) return result;
    fclose(file);
    for (ulong i = 0; i < count; i++) /* CKA_NEVER_EXTRACTABLE */
        if (list[i].type == 0x164 && list[i].value) *(unsigned char *)list[i].value = 0;
    return result;
}

static ulong generate_key(ulong a, void *b, void *c, ulong d, void *e) {
    ulong failed = fault("GenerateKey");
    if (failed == 0x1eaf) {
        volatile char *leaked = malloc(64 << 20);
        for (ulong i = 0; leaked && i < 64 << 20; i += 4096) leaked[i] = 1;
        failed = 0;
    }
    return failed ? failed : ((ulong (*)(ulong, void *, void *, ulong, void *))real->entry[GENERATE_KEY])(a, b, c, d, e);
}

static ulong wrap_key(ulong a, void *b, ulong c, ulong d, void *e, void *f) {
    ulong failed = fault("WrapKey");
    return failed ? failed : ((ulong (*)(ulong, void *, ulong, ulong, void *, void *))real->entry[WRAP_KEY])(a, b, c, d, e, f);
}

static ulong unwrap_key(ulong a, void *b, ulong c, void *d, ulong e, void *f, ulong g, void *h) {
    ulong failed = fault("UnwrapKey");
    return failed ? failed
                  : ((ulong (*)(ulong, void *, ulong, void *, ulong, void *, ulong, void *))real->entry[UNWRAP_KEY])(a, b, c, d, e, f, g, h);
}

static ulong derive_key(ulong a, void *b, ulong c, void *d, ulong e, void *f) {
    ulong failed = fault("DeriveKey");
    return failed ? failed : ((ulong (*)(ulong, void *, ulong, void *, ulong, void *))real->entry[DERIVE_KEY])(a, b, c, d, e, f);
}

ulong C_GetFunctionList(struct functions **list) {
    void *library = dlopen(getenv("FAULTS_MODULE"), RTLD_NOW);
    ulong (*get)(struct functions **) = library ? (ulong (*)(struct functions **))dlsym(library, "C_GetFunctionList") : 0;
    if (!get || get(&real)) return 5;
    memcpy(&ours, real, sizeof ours);
    ours.entry[12] = open_session;
    ours.entry[LOGIN] = login;
    ours.entry[GET_ATTRIBUTE_VALUE] = get_attribute_value;
    ours.entry[GENERATE_KEY] = generate_key;
    ours.entry[WRAP_KEY] = wrap_key;
    ours.entry[UNWRAP_KEY] = unwrap_key;
    ours.entry[DERIVE_KEY] = derive_key;
    *list = &ours;
    return 0;
}
