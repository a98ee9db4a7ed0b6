/* AES-GCM and ChaCha20-Poly1305 of libraries that the system updates: libcrypto 3, and libipsec-mb on request.
 *
 * Both are opened at run time, so that neither building needs their headers nor running their packages. The functions
 * of libcrypto are declared as in its manual pages (EVP_EncryptInit(3)). libipsec-mb has a table of functions for the
 * processor that it runs on; its AES-GCM entries are verified by symbol name before any is called.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SET_TAG = 0x11, GET_TAG = 0x10 }; /* EVP_CTRL_AEAD_SET_TAG, EVP_CTRL_AEAD_GET_TAG of openssl/evp.h */

struct libcrypto {
    unsigned long (*version)(void);
    void *(*fetch)(void *context, const char *name, const char *properties);
    void *(*new)(void);
    void (*free)(void *context);
    int (*init)(void *context, const void *cipher, const uint8_t *key, const uint8_t *iv, int sealing,
                const void *parameters);
    int (*update)(void *context, uint8_t *out, int *written, const uint8_t *in, int size);
    int (*final)(void *context, uint8_t *out, int *written);
    int (*control)(void *context, int command, int size, void *value);
    int (*same)(const void *a, const void *b, size_t size);
    void (*clear_errors)(void);
};

/* From intel-ipsec-mb.h: an IMB_MGR begins with 64 bytes of state, then pointers; AES-GCM's begin with the 25th, in
 * all versions from 1.0 to 1.5. A struct gcm_key_data has 1024 bytes, a struct gcm_context_data 88. */
enum { MB_HEAD = 64, MB_FIRST = 24, MB_KEY = 4096, MB_STATE = 512 };

struct gcm {
    void (*init)(const void *key, void *state, const uint8_t *iv, const uint8_t *aad, uint64_t size);
    void (*seal)(const void *key, void *state, uint8_t *out, const uint8_t *in, uint64_t size);
    void (*seal_end)(const void *key, void *state, uint8_t *tag, uint64_t size);
    void (*open)(const void *key, void *state, uint8_t *out, const uint8_t *in, uint64_t size);
    void (*open_end)(const void *key, void *state, uint8_t *tag, uint64_t size);
    void (*expand)(const void *key, void *expanded);
};

struct provider {
    struct libcrypto crypto;
    void *ciphers[SUITES]; /* returned by EVP_CIPHER_fetch */
    struct gcm gcm[2];     /* AES_256_GCM, AES_128_GCM */
    int has_gcm;           /* libipsec-mb does AES-GCM */
};

static int find(void *library, const char *name, void *slot)
{
    void *function = dlsym(library, name);

    memcpy(slot, &function, sizeof function); /* ISO C has no conversion from void * to a function's address */
    return function != NULL;
}

static int bind_crypto(void *library, struct libcrypto *crypto)
{
    return find(library, "OpenSSL_version_num", &crypto->version) && find(library, "EVP_CIPHER_fetch", &crypto->fetch) &&
           find(library, "EVP_CIPHER_CTX_new", &crypto->new) && find(library, "EVP_CIPHER_CTX_free", &crypto->free) &&
           find(library, "EVP_CipherInit_ex2", &crypto->init) && find(library, "EVP_CipherUpdate", &crypto->update) &&
           find(library, "EVP_CipherFinal_ex", &crypto->final) && find(library, "EVP_CIPHER_CTX_ctrl", &crypto->control) &&
           find(library, "CRYPTO_memcmp", &crypto->same) && find(library, "ERR_clear_error", &crypto->clear_errors);
}

static int fetch_ciphers(struct provider *provider)
{
    static const char *const names[SUITES] = {"AES-256-GCM", "AES-128-GCM", "ChaCha20-Poly1305"};
    int found = 0;

    for (int suite = 0; suite < SUITES; suite++) {
        provider->ciphers[suite] = provider->crypto.fetch(NULL, names[suite], NULL);
        found += provider->ciphers[suite] != NULL;
    }
    provider->crypto.clear_errors(); /* other users of libcrypto in this process would find ours */
    return found == SUITES;
}

/* Open libcrypto. Libraries stay open and providers are never freed: a process needs one, or two for a while.
 * NULL: `why` is the reason. */
struct provider *mt_provider(const char *libcrypto, char *why, size_t room)
{
    struct provider *provider = calloc(1, sizeof *provider);
    void *library = dlopen(libcrypto, RTLD_NOW | RTLD_LOCAL);

    if (library == NULL)
        snprintf(why, room, "%s", dlerror());
    else if (provider == NULL)
        snprintf(why, room, "no memory");
    else if (!bind_crypto(library, &provider->crypto))
        snprintf(why, room, "%s lacks functions of OpenSSL 3", libcrypto);
    else if (!fetch_ciphers(provider))
        snprintf(why, room, "%s lacks a cipher of TLS 1.3", libcrypto);
    else
        return provider;
    free(provider);
    return NULL;
}

/* Return libcrypto's version, encoded as OPENSSL_VERSION_NUMBER: 0x30000130 is 3.0.19. */
unsigned long mt_libcrypto_version(const struct provider *provider)
{
    return provider->crypto.version();
}

/* Read one pointer of the manager's table; return whether it is a function whose name begins with `name`. */
static int take(const uint8_t *manager, int index, const char *name, void *slot)
{
    void *function;
    Dl_info found;

    memcpy(&function, manager + MB_HEAD + sizeof function * (size_t)(MB_FIRST + index), sizeof function);
    if (function == NULL || !dladdr(function, &found) || found.dli_sname == NULL || found.dli_saddr != function)
        return 0;
    memcpy(slot, &function, sizeof function);
    return strncmp(found.dli_sname, name, strlen(name)) == 0;
}

/* The table has each function for keys of 128, 192 and 256 bits; `step` is 0 or 2. */
static int take_gcm(const uint8_t *manager, int step, const char *bits, struct gcm *gcm)
{
    static const struct { int index; const char *name; size_t slot; } functions[] = {
        {6, "aes_gcm_init_%s_", offsetof(struct gcm, init)},
        {9, "aes_gcm_enc_%s_update_", offsetof(struct gcm, seal)},
        {12, "aes_gcm_dec_%s_update_", offsetof(struct gcm, open)},
        {15, "aes_gcm_enc_%s_finalize_", offsetof(struct gcm, seal_end)},
        {18, "aes_gcm_dec_%s_finalize_", offsetof(struct gcm, open_end)},
        {24, "aes_gcm_pre_%s_", offsetof(struct gcm, expand)},
    };
    char name[64];

    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        snprintf(name, sizeof name, functions[i].name, bits);
        if (!take(manager, functions[i].index + step, name, (uint8_t *)gcm + functions[i].slot))
            return 0;
    }
    return 1;
}

/* Use libipsec-mb for AES-GCM; to be called before the provider is used. Return its version, as "1.3.0", or NULL:
 * `why` is the reason. */
const char *mt_use_ipsec_mb(struct provider *provider, const char *ipsec_mb, char *why, size_t room)
{
    const char *(*version)(void);
    void *(*new)(uint64_t flags);
    void (*init)(void *manager, void *architecture);
    void (*release)(void *manager);
    void *library = dlopen(ipsec_mb, RTLD_NOW | RTLD_LOCAL);
    uint8_t *manager;

    if (library == NULL) {
        snprintf(why, room, "%s", dlerror());
        return NULL;
    }
    if (!find(library, "imb_get_version_str", &version) || !find(library, "alloc_mb_mgr", &new) ||
        !find(library, "init_mb_mgr_auto", &init) || !find(library, "free_mb_mgr", &release) ||
        (manager = new(0)) == NULL) {
        snprintf(why, room, "%s is not libipsec-mb 1", ipsec_mb);
        return NULL;
    }
    init(manager, NULL);
    provider->has_gcm = take_gcm(manager, 2, "256", &provider->gcm[AES_256_GCM]) &&
                        take_gcm(manager, 0, "128", &provider->gcm[AES_128_GCM]);
    release(manager);
    if (!provider->has_gcm) {
        snprintf(why, room, "%s %s has another table of functions than versions 1.0 to 1.5", ipsec_mb, version());
        return NULL;
    }
    return version();
}

static int init_gcm(struct aead *aead, const uint8_t *key)
{
    aead->key = aligned_alloc(64, MB_KEY + MB_STATE);
    if (aead->key == NULL)
        return 0;
    memset(aead->key, 0, MB_KEY + MB_STATE);
    aead->state = aead->key + MB_KEY;
    aead->provider->gcm[aead->suite].expand(key, aead->key);
    return 1;
}

int aead_init(struct aead *aead, const struct provider *provider, enum suite suite, int sealing, const uint8_t *key)
{
    const struct libcrypto *crypto = &provider->crypto;

    *aead = (struct aead){.provider = provider, .suite = suite, .sealing = sealing};
    if (suite != CHACHA20_POLY1305 && provider->has_gcm)
        return init_gcm(aead, key);
    aead->context = crypto->new();
    if (aead->context == NULL)
        return 0;
    if (crypto->init(aead->context, provider->ciphers[suite], key, NULL, sealing, NULL))
        return 1;
    crypto->clear_errors();
    aead_free(aead);
    return 0;
}

/* Wipe the keys: libcrypto does so in its memory, this function in ours. */
void aead_free(struct aead *aead)
{
    if (aead->context != NULL)
        aead->provider->crypto.free(aead->context);
    if (aead->key != NULL) {
        explicit_bzero(aead->key, MB_KEY + MB_STATE);
        free(aead->key);
    }
    aead->context = NULL;
    aead->key = NULL;
}

static int good(struct aead *aead, int result)
{
    if (result <= 0)
        aead->provider->crypto.clear_errors();
    return result > 0;
}

int aead_begin(struct aead *aead, const uint8_t *nonce, const uint8_t *header)
{
    const struct libcrypto *crypto = &aead->provider->crypto;
    int written;

    if (aead->context == NULL) {
        aead->provider->gcm[aead->suite].init(aead->key, aead->state, nonce, header, HEADER);
        return 1;
    }
    return good(aead, crypto->init(aead->context, NULL, NULL, nonce, -1, NULL)) &&
           good(aead, crypto->update(aead->context, NULL, &written, header, HEADER));
}

int aead_update(struct aead *aead, uint8_t *out, const uint8_t *in, size_t size)
{
    const struct gcm *gcm;
    int written = 0;

    if (aead->context != NULL)
        return good(aead, aead->provider->crypto.update(aead->context, out, &written, in, (int)size)) &&
               written == (int)size;
    gcm = &aead->provider->gcm[aead->suite];
    (aead->sealing ? gcm->seal : gcm->open)(aead->key, aead->state, out, in, size);
    return 1;
}

int aead_seal(struct aead *aead, uint8_t *tag)
{
    const struct libcrypto *crypto = &aead->provider->crypto;
    int written;

    if (aead->context == NULL) {
        aead->provider->gcm[aead->suite].seal_end(aead->key, aead->state, tag, TAG);
        return 1;
    }
    return good(aead, crypto->final(aead->context, tag, &written)) &&
           good(aead, crypto->control(aead->context, GET_TAG, TAG, tag));
}

int aead_verify(struct aead *aead, const uint8_t *tag)
{
    const struct libcrypto *crypto = &aead->provider->crypto;
    uint8_t copy[TAG];
    int written;

    if (aead->context == NULL) {
        aead->provider->gcm[aead->suite].open_end(aead->key, aead->state, copy, TAG);
        return crypto->same(copy, tag, TAG) == 0;
    }
    memcpy(copy, tag, TAG); /* EVP_CIPHER_CTX_ctrl takes no const */
    return good(aead, crypto->control(aead->context, SET_TAG, TAG, copy)) &&
           good(aead, crypto->final(aead->context, copy, &written));
}
