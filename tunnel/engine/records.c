/* TLS 1.3 records: sealed from pieces of content, and opened, many per call (RFC 8446 sections 5.1 to 5.5).
 *
 * A record is sealed under the next sequence number, which is incremented before encryption: no number is used twice
 * under a key, even on failure. After a failure every call for the direction returns the same error.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <stdlib.h>
#include <string.h>

/* NULL: out of memory, or the library failed, or `number` is above `limit`, the first number that may not be used.
 * `sealing` is 1 for the sending direction, 0 for the receiving one. The caller wipes its copy of the key. */
struct direction *mt_direction_new(const struct provider *provider, int suite, int sealing, const uint8_t *key,
                                   const uint8_t *iv, uint64_t number, uint64_t limit)
{
    struct direction *direction;

    if (suite < 0 || suite >= SUITES || number > limit)
        return NULL;
    direction = calloc(1, sizeof *direction);
    if (direction == NULL)
        return NULL;
    if (!aead_init(&direction->aead, provider, (enum suite)suite, sealing, key)) {
        free(direction);
        return NULL;
    }
    memcpy(direction->iv, iv, NONCE);
    direction->number = number;
    direction->limit = limit;
    atomic_flag_clear(&direction->busy);
    return direction;
}

/* To be called once, with no other call in progress. */
void mt_direction_free(struct direction *direction)
{
    aead_free(&direction->aead);
    explicit_bzero(direction, sizeof *direction);
    free(direction);
}

/* Return the sequence number of the next record. */
uint64_t mt_direction_number(const struct direction *direction)
{
    return direction->number;
}

/* Exclusive access: two threads in one direction would use a number twice. */
int direction_enter(struct direction *direction)
{
    return !atomic_flag_test_and_set_explicit(&direction->busy, memory_order_acquire);
}

void direction_leave(struct direction *direction)
{
    atomic_flag_clear_explicit(&direction->busy, memory_order_release);
}

/* Begin the next record: its nonce is the IV XOR the number, in the last eight bytes (section 5.3). */
static int begin(struct direction *direction, const uint8_t *header)
{
    uint64_t number = direction->number++;
    uint8_t nonce[NONCE];

    memcpy(nonce, direction->iv, NONCE);
    for (int i = 0; i < 8; i++)
        nonce[NONCE - 1 - i] ^= (uint8_t)(number >> (8 * i));
    return aead_begin(&direction->aead, nonce, header);
}

/* Add up the sizes of all pieces; return 0 if the sum exceeds `most`. */
int pieces_content(const struct piece *pieces, size_t count, size_t most, size_t *content)
{
    *content = 0;
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].size > most - *content)
            return 0;
        *content += pieces[i].size;
    }
    return 1;
}

/* Encrypt the next `size` bytes at the cursor, which must have as many. */
static int encrypt(struct aead *aead, struct cursor *from, uint8_t *out, size_t size)
{
    while (size > 0) {
        size_t part = from->piece->size - from->offset;

        if (part > size)
            part = size;
        if (part > 0 && !aead_update(aead, out, from->piece->data + from->offset, part))
            return 0;
        out += part;
        size -= part;
        from->offset += part;
        if (from->offset == from->piece->size) {
            from->piece++;
            from->offset = 0;
        }
    }
    return 1;
}

static int seal_one(struct direction *direction, int type, struct cursor *from, size_t size, uint8_t *out)
{
    const uint8_t inner = (uint8_t)type;
    size_t protected = size + 1 + TAG;
    uint8_t *end = out + HEADER + size;

    out[0] = DATA; /* the outer type of all protected records (section 5.2) */
    out[1] = 3;
    out[2] = 3;
    out[3] = (uint8_t)(protected >> 8);
    out[4] = (uint8_t)protected;
    return begin(direction, out) && encrypt(&direction->aead, from, out + HEADER, size) &&
           aead_update(&direction->aead, end, &inner, 1) && aead_seal(&direction->aead, end + 1);
}

/* Seal the next `content` bytes at the cursor; return the number of bytes written to `out`, or an error. */
int64_t seal_records(struct direction *direction, int type, struct cursor *from, size_t content, uint8_t *out,
                     size_t room)
{
    size_t records = (content + RECORD - 1) / RECORD, written = 0;

    if (direction->failed)
        return direction->failed;
    if (content + records * OVERHEAD > room)
        return ROOM;
    if (records > direction->limit - direction->number)
        return SPENT;
    while (content > 0) {
        size_t size = content < RECORD ? content : RECORD;

        if (!seal_one(direction, type, from, size, out + written))
            return direction->failed = CIPHER;
        written += HEADER + size + 1 + TAG;
        content -= size;
    }
    return (int64_t)written;
}

/* Seal all pieces, MOST_BYTES at most, into records of `type`; return their size in `out`, or an error. Pieces and
 * `out` must not overlap. SPENT is no failure: fewer records may still be sealed. */
int64_t mt_seal(struct direction *direction, int type, const struct piece *pieces, size_t count, uint8_t *out,
                size_t room)
{
    struct cursor from = {pieces, pieces + count, 0};
    size_t content;
    int64_t result;

    if (!direction->aead.sealing || type < ALERT || type > DATA || !pieces_content(pieces, count, MOST_BYTES, &content))
        return MISUSE;
    if (content == 0 && type != DATA)
        return MISUSE; /* section 5.1 */
    if (!direction_enter(direction))
        return BUSY;
    result = seal_records(direction, type, &from, content, out, room);
    direction_leave(direction);
    return result;
}

/* Parse the header of a record; return the number of bytes after it, or an error. `in` has at least a header. */
static int protected_size(const uint8_t *in)
{
    int size = in[3] << 8 | in[4];

    if (in[0] != DATA)
        return NO_RECORD;
    if (size > RECORD + EXPANSION)
        return OVERFLOW;
    return size < 1 + TAG ? TOO_SHORT : size;
}

/* Decrypt one record of `size` bytes after its header. Return 0, or an error. */
static int decrypt(struct direction *direction, const uint8_t *in, size_t size, uint8_t *out)
{
    uint64_t number = direction->number;
    struct aead *aead = &direction->aead;

    if (number >= direction->limit)
        return SPENT;
    if (begin(direction, in) && aead_update(aead, out, in + HEADER, size - TAG) &&
        aead_verify(aead, in + HEADER + size - TAG))
        return 0;
    direction->number = number; /* it counts authenticated records only */
    memset(out, 0, size - TAG); /* it is not authenticated */
    return BAD_TAG;
}

/* Parse the inner plaintext, `size` bytes at `out`: DATA is added, other types reported. Return 0, or why to stop. */
static int sort(const uint8_t *out, size_t size, struct opened *opened)
{
    while (size > 0 && out[size - 1] == 0) /* padding (section 5.4) */
        size--;
    if (size == 0)
        return NO_CONTENT;
    if (size - 1 > RECORD)
        return OVERFLOW;
    if (out[size - 1] == DATA) {
        opened->filled += size - 1;
        return 0;
    }
    opened->type = out[size - 1];
    opened->content = size - 1;
    return CONTROL;
}

/* Open complete records of `in` until there is a reason to stop; `opened` reports the progress. */
int open_records(struct direction *direction, const uint8_t *in, size_t size, uint8_t *out, size_t room,
                 struct opened *opened)
{
    int stop = direction->failed;

    while (stop == 0) {
        const uint8_t *record = in + opened->consumed;
        size_t left = size - opened->consumed;
        int length;

        if (left < HEADER)
            return INPUT_USED;
        length = protected_size(record);
        if (length < 0) {
            stop = length;
            break;
        }
        if (left < HEADER + (size_t)length)
            return INPUT_USED;
        if (opened->records == MOST_RECORDS || opened->filled + (size_t)length > MOST_BYTES)
            return BUDGET;
        if ((size_t)length - TAG > room - opened->filled)
            return opened->records > 0 ? ROOM_USED : ROOM;
        stop = decrypt(direction, record, (size_t)length, out + opened->filled);
        if (stop == 0)
            stop = sort(out + opened->filled, (size_t)length - TAG, opened);
        if (stop == 0 || stop == CONTROL) {
            opened->consumed += HEADER + (size_t)length;
            opened->records++;
        }
    }
    if (stop < 0)
        direction->failed = stop;
    return stop;
}

/* Open the records at the beginning of `in`; return why it stopped, and the progress in `opened`. Data before an
 * error is valid. `in` and `out` must not overlap; `out` needs room for a complete record. */
int mt_open(struct direction *direction, const uint8_t *in, size_t size, uint8_t *out, size_t room,
            struct opened *opened)
{
    int stop;

    *opened = (struct opened){0};
    if (direction->aead.sealing)
        return MISUSE;
    if (!direction_enter(direction))
        return BUSY;
    stop = open_records(direction, in, size, out, room, opened);
    direction_leave(direction);
    return stop;
}
