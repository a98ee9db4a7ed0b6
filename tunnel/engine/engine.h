/* The compiled engine: TLS 1.3 records (RFC 8446 section 5.2) in batches, for userspace lanes.
 *
 * ciphers.c has AES-GCM and ChaCha20-Poly1305 from system libraries, records.c seals and opens records,
 * transfer.c does so on a socket, payload.c between two. binding.py declares the mt_ functions to Python; both
 * must agree. Independent of handshakes; of frames only the boundaries of a stream's payload are parsed. No
 * memory is allocated on the data path, and nothing is printed.
 */
#ifndef MTUNNEL_ENGINE_H
#define MTUNNEL_ENGINE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HEADER = 5,            /* bytes of a record's header: type, version, length */
    TAG = 16,              /* bytes of its authentication tag, with every suite */
    NONCE = 12,
    RECORD = 16384,        /* most bytes of content (section 5.1) */
    EXPANSION = 256,       /* most bytes of type, padding and tag after it (section 5.2) */
    OVERHEAD = HEADER + 1 + TAG,
    MOST_BYTES = 1 << 20,  /* content that one call seals or opens, to bound a loop iteration */
    MOST_RECORDS = 256,    /* records that one call opens: a peer may send tiny ones */
    BATCH = 1 << 18,       /* content between two system calls: it fits in a level-2 cache */
    FRAME = 20,            /* bytes of a frame's header: tunnel/wire/SPEC.md section 3 */
    BATCH_SEALED = BATCH + FRAME + (BATCH / RECORD + 1) * OVERHEAD, /* and more than an incomplete record */
    MOST_FRAMES = 64,      /* frames that one call passes on: a peer may send tiny ones */
};

enum suite { AES_256_GCM, AES_128_GCM, CHACHA20_POLY1305, SUITES };

enum content { ALERT = 21, HANDSHAKE = 22, DATA = 23 };

/* Why a call ended. Below zero are errors; all but MISUSE, ROOM and BUSY make the key unusable. */
enum {
    INPUT_USED = 0,   /* all complete records are opened */
    CONTROL = 1,      /* a record that is not DATA */
    BUDGET = 2,       /* the limit of a call is reached; there may be more */
    ROOM_USED = 3,    /* the next record does not fit into the output */
    SOCKET_FULL = 4,
    SOCKET_EMPTY = 5,
    SOCKET_ENDED = 6, /* the peer closed its direction */
    SOCKET_FAILED = 7,
    SOURCE_EMPTY = 8, /* the source of payload has no more */
    SOURCE_ENDED = 9,
    SOURCE_FAILED = 10,
    MISUSE = -1,      /* invalid arguments; nothing was done */
    ROOM = -2,        /* the output is too small; nothing was done */
    BUSY = -3,        /* another thread is using the object; nothing was done */
    SPENT = -4,       /* the limit of the key is reached */
    CIPHER = -5,      /* the library failed */
    OVERFLOW = -6,    /* a record that is too long */
    TOO_SHORT = -7,   /* a record without room for a type and a tag */
    NO_RECORD = -8,   /* its outer type is not that of protected records */
    BAD_TAG = -9,     /* it failed authentication */
    NO_CONTENT = -10, /* nothing but padding */
};

struct provider; /* the crypto libraries */
struct buffer;   /* memory between a socket and one direction */

struct aead {
    const struct provider *provider;
    enum suite suite;
    int sealing;
    void *context;   /* libcrypto's, or NULL: libipsec-mb is used, with the following */
    uint8_t *key;    /* libipsec-mb's expanded key, aligned */
    uint8_t *state;  /* libipsec-mb's state of one record */
};

/* One key of one direction. */
struct direction {
    struct aead aead;
    uint8_t iv[NONCE];
    uint64_t number;  /* of the next record */
    uint64_t limit;   /* the first number that may not be used */
    int failed;       /* the error that made the key unusable, or 0 */
    atomic_flag busy;
};

/* One part of the content to seal. */
struct piece {
    const uint8_t *data;
    size_t size;
};

/* What mt_open and mt_receive report. */
struct opened {
    size_t consumed;  /* bytes of whole records that were opened */
    size_t filled;    /* bytes of DATA, from the beginning of the output */
    size_t content;   /* with CONTROL: bytes of that record, after these */
    size_t records;   /* how many were opened, including that one */
    size_t received;  /* mt_receive: bytes read from the socket */
    int type;         /* with CONTROL: its content type */
    int error;        /* with SOCKET_FAILED: errno */
};

/* What mt_send reports. */
struct sent {
    size_t taken;   /* bytes of content that were sealed; the rest is still the caller's */
    size_t gone;    /* bytes of content, of this call or earlier ones, whose records the socket has accepted */
    size_t sent;    /* bytes that the socket accepted */
    size_t unsent;  /* bytes of records left in the buffer */
    int error;      /* with SOCKET_FAILED: errno */
};

/* Memory for a part of the data that is read. */
struct room {
    uint8_t *data;
    size_t size;
};

/* What mt_carry reports in addition. */
struct carried {
    struct sent sent;
    size_t read;  /* bytes of payload that were read, and sealed in frames */
    int error;    /* with SOURCE_FAILED: errno */
};

/* Destination and position of a stream's payload; mt_pass sets `passed`, `full` and `error`. */
struct sink {
    uint32_t stream;
    int target;
    uint64_t offset; /* of the next byte in the stream */
    uint64_t limit;  /* valid offsets are below it */
    size_t left;     /* bytes of the frame in progress */
    size_t passed;   /* bytes that the target accepted */
    int full;        /* it accepts no more for now */
    int error;       /* or it failed: errno */
};

/* What mt_pass reports in addition to mt_receive. */
struct passed {
    struct opened opened; /* `filled` is the end of the data left to the caller */
    size_t start;         /* its beginning */
    size_t frames;        /* frame headers that were consumed */
    size_t current;       /* the sink of the last frame */
};

/* Memory between a socket and one direction. */
struct buffer {
    uint8_t *memory;
    void *mapping; /* that contains it */
    size_t mapped;
    size_t start;  /* of the pending bytes */
    size_t end;
    size_t content; /* of the batch to be sent */
    atomic_flag busy;
};

/* A position in a list of pieces. */
struct cursor {
    const struct piece *piece;
    const struct piece *end;
    size_t offset;
};

/* Called by Python, and documented in the C files. Nothing else is exported. */
#pragma GCC visibility push(default)
struct provider *mt_provider(const char *libcrypto, char *why, size_t room);
unsigned long mt_libcrypto_version(const struct provider *provider);
const char *mt_use_ipsec_mb(struct provider *provider, const char *ipsec_mb, char *why, size_t room);

struct direction *mt_direction_new(const struct provider *provider, int suite, int sealing, const uint8_t *key,
                                   const uint8_t *iv, uint64_t number, uint64_t limit);
void mt_direction_free(struct direction *direction);
uint64_t mt_direction_number(const struct direction *direction);
int64_t mt_seal(struct direction *direction, int type, const struct piece *pieces, size_t count, uint8_t *out,
                size_t room);
int mt_open(struct direction *direction, const uint8_t *in, size_t size, uint8_t *out, size_t room,
            struct opened *opened);

struct buffer *mt_buffer_new(void);
void mt_buffer_free(struct buffer *buffer);
size_t mt_buffer_waiting(const struct buffer *buffer);
int mt_buffer_put(struct buffer *buffer, const uint8_t *data, size_t size);
int mt_send(struct direction *direction, struct buffer *buffer, int fd, int type, const struct piece *pieces,
            size_t count, int more, struct sent *sent);
int mt_receive(struct direction *direction, struct buffer *buffer, int fd, uint8_t *out, size_t room,
               struct opened *opened);

int mt_carry(struct direction *direction, struct buffer *buffer, int fd, int source, uint32_t stream, uint64_t offset,
             const struct room *rooms, size_t count, struct carried *carried);
int mt_pass(struct direction *direction, struct buffer *buffer, int fd, uint8_t *out, size_t room, size_t most,
            struct sink *sinks, size_t count, struct passed *passed);
#pragma GCC visibility pop

/* ciphers.c: per record aead_begin, aead_update for its parts, aead_seal or aead_verify. Return 1, or 0 on failure. */
int aead_init(struct aead *aead, const struct provider *provider, enum suite suite, int sealing, const uint8_t *key);
void aead_free(struct aead *aead);
int aead_begin(struct aead *aead, const uint8_t *nonce, const uint8_t *header);
int aead_update(struct aead *aead, uint8_t *out, const uint8_t *in, size_t size);
int aead_seal(struct aead *aead, uint8_t *tag);
int aead_verify(struct aead *aead, const uint8_t *tag);

/* records.c, for transfer.c. The caller holds the direction. */
int direction_enter(struct direction *direction);
void direction_leave(struct direction *direction);
int pieces_content(const struct piece *pieces, size_t count, size_t most, size_t *content);
int64_t seal_records(struct direction *direction, int type, struct cursor *from, size_t content, uint8_t *out,
                     size_t room);
int open_records(struct direction *direction, const uint8_t *in, size_t size, uint8_t *out, size_t room,
                 struct opened *opened);

/* transfer.c, for payload.c. */
int buffer_enter(struct direction *direction, struct buffer *buffer);
void buffer_leave(struct direction *direction, struct buffer *buffer);
int buffer_flush(struct buffer *buffer, int fd, int more, struct sent *sent);
int buffer_fill(struct buffer *buffer, int fd, struct opened *opened);

#endif
