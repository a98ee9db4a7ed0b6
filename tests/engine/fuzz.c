/* Damaged records for the engine, without Python: fuzz SEED ROUNDS LIBCRYPTO [IPSEC_MB]
 *
 * Each round seals records of random shape under a random key, damages them in most cases, and opens them again, in
 * parts, from memory and from a socket. However they are damaged, the output must be a prefix of the input, and
 * nothing may be read or written beyond a buffer, which ends at a guard page. Built with AddressSanitizer and
 * UndefinedBehaviorSanitizer by test_fuzz.py.
 */
#define _GNU_SOURCE
#include "../../tunnel/engine/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SPACE = 1 << 20, PAGE = 4096, PARTS = 12 };

static uint64_t state, current;
static uint8_t stream[SPACE], content[SPACE], seen[SPACE];

#define CHECK(condition) ((condition) ? (void)0 : fail(#condition, __LINE__))

static void fail(const char *condition, int line)
{
    fprintf(stderr, "seed %llu, line %d: %s\n", (unsigned long long)current, line, condition);
    abort();
}

static uint64_t draw(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return below ? (state * 0x2545F4914F6CDD1DULL >> 16) % below : 0;
}

static void scatter(uint8_t *to, size_t size)
{
    for (size_t i = 0; i < size; i++)
        to[i] = (uint8_t)draw(256);
}

/* Return `size` bytes that end at a guard page: a read or write beyond them is a fault, in libraries as well. */
static uint8_t *edge(int which, size_t size)
{
    static uint8_t *ends[3];

    if (ends[which] == NULL) {
        uint8_t *all = mmap(NULL, SPACE + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        CHECK(all != MAP_FAILED && mprotect(all + SPACE, PAGE, PROT_NONE) == 0);
        ends[which] = all + SPACE;
    }
    CHECK(size <= SPACE);
    return ends[which] - size;
}

static size_t draw_size(void)
{
    static const size_t sizes[] = {0, 1, 15, 16, 17, 64, 255, 4096, RECORD - 1, RECORD};

    return draw(2) ? sizes[draw(sizeof sizes / sizeof *sizes)] : draw(2) ? draw(300) : draw(RECORD + 1);
}

/* Seal one record of any inner plaintext, such as mt_seal would not: padding, other types, empty ones. */
static size_t craft(struct direction *direction, uint8_t *inner, size_t size, uint8_t *out)
{
    uint8_t nonce[NONCE], header[HEADER] = {DATA, 3, 3, (uint8_t)((size + TAG) >> 8), (uint8_t)(size + TAG)};

    memcpy(nonce, direction->iv, NONCE);
    for (int i = 0; i < 8; i++)
        nonce[NONCE - 1 - i] ^= (uint8_t)(direction->number >> (8 * i));
    direction->number++;
    memcpy(out, header, HEADER);
    CHECK(aead_begin(&direction->aead, nonce, header));
    CHECK(size == 0 || aead_update(&direction->aead, out + HEADER, inner, size));
    CHECK(aead_seal(&direction->aead, out + HEADER + size));
    return HEADER + size + TAG;
}

/* Add a record to the stream, and its data to `content`. */
static void add(struct direction *sealer, size_t *size, size_t *plain)
{
    static uint8_t inner[RECORD + 300];
    size_t count = draw_size(), padding = draw(4) ? 0 : draw(200);
    int type = draw(8) ? DATA : (int)draw(256);

    scatter(inner, count);
    if (type == 0)
        memset(inner, 0, count); /* or its last byte would be the type */
    memset(inner + count, 0, padding + 1);
    inner[count] = (uint8_t)type;
    if (draw(2) && type == DATA && count > 0) {
        struct piece pieces[3] = {{inner, count / 3}, {inner + count / 3, 0}, {inner + count / 3, count - count / 3}};
        int64_t made = mt_seal(sealer, DATA, pieces, 3, stream + *size, SPACE - *size);

        CHECK(made == (int64_t)(count + OVERHEAD));
        *size += (size_t)made;
    } else
        *size += craft(sealer, inner, draw(64) ? count + 1 + padding : 0, stream + *size);
    if (type == DATA) {
        memcpy(content + *plain, inner, count);
        *plain += count;
    }
}

static size_t damage(size_t size)
{
    size_t at = draw(size), length = 1 + draw(40);

    switch (draw(6)) {
    case 0:
        stream[at] ^= (uint8_t)(1 << draw(8));
        break;
    case 1:
        scatter(stream + at, length < size - at ? length : size - at);
        break;
    case 2: /* drop a part */
        length = length < size - at ? length : size - at;
        memmove(stream + at, stream + at + length, size - at - length);
        return size - length;
    case 3: /* insert random bytes */
        memmove(stream + at + length, stream + at, size - at);
        scatter(stream + at, length);
        return size + length;
    case 4: /* a header of any length */
        at = draw(2) ? 0 : at;
        if (size - at >= HEADER) {
            stream[at] = DATA;
            stream[at + 3] = (uint8_t)draw(draw(2) ? 256 : 66);
            stream[at + 4] = (uint8_t)draw(256);
        }
        break;
    default: /* truncate */
        return at;
    }
    return size;
}

/* Check the invariants of every outcome. */
static void judge(const struct direction *opener, const struct opened *opened, int stop, size_t size, size_t room)
{
    CHECK(opened->consumed <= size && opened->filled + opened->content <= room && opened->filled <= MOST_BYTES);
    CHECK(opened->records <= MOST_RECORDS && (opened->records > 0 || opened->consumed == 0));
    CHECK((stop == CONTROL) == (opened->type != 0) && opened->type != DATA);
    CHECK(stop >= NO_CONTENT && stop <= SOCKET_FAILED && stop != BUSY && stop != MISUSE && stop != CIPHER);
    CHECK((opener->failed != 0) == (stop < 0 && stop != ROOM));
}

/* Open the stream from memory in parts; return the number of bytes of content. */
static size_t open_all(struct direction *opener, size_t size)
{
    size_t start = 0, end = 0, got = 0;
    int stop;

    for (;;) {
        size_t room = draw(3) ? RECORD + EXPANSION + draw(3 * RECORD) : draw(2) ? draw(RECORD) : SPACE;
        uint8_t *in = edge(0, end - start), *out = edge(1, room);
        struct opened opened;

        memcpy(in, stream + start, end - start);
        stop = mt_open(opener, in, end - start, out, room, &opened);
        judge(opener, &opened, stop, end - start, room);
        CHECK(got + opened.filled <= SPACE);
        memcpy(seen + got, out, opened.filled);
        got += opened.filled;
        start += opened.consumed;
        if (stop < 0 && stop != ROOM)
            return got;
        if (stop == INPUT_USED && end == size)
            return got;
        if (stop == INPUT_USED)
            end += 1 + draw(draw(2) ? 30 : size - end);
        if (end > size)
            end = size;
    }
}

/* The same through a socket. */
static size_t receive_all(struct direction *opener, size_t size)
{
    struct buffer *buffer = mt_buffer_new();
    size_t sent = 0, got = 0;
    int ends[2], stop;

    CHECK(buffer != NULL && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
    do {
        size_t room = RECORD + EXPANSION + draw(3 * RECORD);
        uint8_t *out = edge(1, room);
        struct opened opened;

        if (sent < size) {
            ssize_t count = send(ends[0], stream + sent, 1 + draw(size - sent), MSG_NOSIGNAL);

            sent += count > 0 ? (size_t)count : 0;
        }
        if (sent == size)
            shutdown(ends[0], SHUT_WR);
        stop = mt_receive(opener, buffer, ends[1], out, room, &opened);
        judge(opener, &opened, stop, BATCH + MOST_BYTES, room);
        CHECK(got + opened.filled <= SPACE && stop != INPUT_USED && stop != ROOM);
        memcpy(seen + got, out, opened.filled);
        got += opened.filled;
    } while (stop >= 0 && stop != SOCKET_ENDED);
    close(ends[0]);
    close(ends[1]);
    mt_buffer_free(buffer);
    return got;
}

/* mt_send produces the same as mt_seal, however often the socket is full. */
static void send_and_open(struct direction *sealer, struct direction *opener)
{
    struct buffer *outgoing = mt_buffer_new(), *incoming = mt_buffer_new();
    size_t size = draw(draw(4) ? 60000 : SPACE), taken = 0, got = 0;
    int ends[2], space = 4096 << draw(9);

    CHECK(outgoing != NULL && incoming != NULL && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    if (setsockopt(ends[0], SOL_SOCKET, SO_SNDBUFFORCE, &space, sizeof space) != 0) /* needs privileges */
        setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &space, sizeof space);
    scatter(content, size);
    while (got < size) {
        size_t cut = draw(size - taken + 1), room = RECORD + 1 + draw(SPACE - RECORD);
        uint8_t *in = edge(0, size - taken), *out = edge(1, room);
        struct piece pieces[2] = {{in, cut}, {in + cut, size - taken - cut}};
        struct opened opened;
        struct sent sent;
        int stop;

        memcpy(in, content + taken, size - taken);
        stop = mt_send(sealer, outgoing, ends[0], DATA, pieces, 2, (int)draw(2), &sent);
        CHECK((stop == INPUT_USED || stop == SOCKET_FULL) && sent.taken <= size - taken);
        CHECK(sent.unsent == mt_buffer_waiting(outgoing) && (stop != INPUT_USED || sent.unsent == 0));
        taken += sent.taken;
        stop = mt_receive(opener, incoming, ends[1], out, room, &opened);
        CHECK(stop == SOCKET_EMPTY || stop == BUDGET || stop == ROOM_USED);
        memcpy(seen + got, out, opened.filled);
        got += opened.filled;
    }
    CHECK(got == size && memcmp(seen, content, size) == 0 && sealer->number == opener->number);
    close(ends[0]);
    close(ends[1]);
    mt_buffer_free(outgoing);
    mt_buffer_free(incoming);
}

/* Write consecutive frames of stream 5, some of them invalid; return their size in bytes. */
static size_t write_frames(uint8_t *to, size_t size)
{
    uint64_t offset = 0;
    size_t at = 0;

    while (size - at > FRAME + 1) {
        size_t length = 1 + draw(draw(2) ? 40 : 30000);

        if (length > size - at - FRAME)
            length = size - at - FRAME;
        memset(to + at, 0, FRAME);
        to[at] = draw(40) ? 19 : (uint8_t)draw(256);
        to[at + 7] = (uint8_t)(draw(40) ? 5 + 2 * draw(2) : draw(256));
        for (int i = 0; i < 4; i++)
            to[at + 8 + i] = (uint8_t)(length >> (24 - 8 * i));
        for (int i = 0; i < 8; i++)
            to[at + 12 + i] = (uint8_t)(offset >> (56 - 8 * i));
        if (draw(40) == 0)
            to[at + draw(FRAME)] ^= (uint8_t)(1 << draw(8));
        scatter(to + at + FRAME, length);
        at += FRAME + length;
        offset += length;
    }
    return at;
}

/* Check that targets received the payload that begins at `at`, without frame headers; return where it ends. */
static size_t compare_passed(size_t at, const struct sink *before, const struct sink *after, size_t frames,
                             const int *others)
{
    size_t which = 0, left = before[0].left, passed[2] = {after[0].passed, after[1].passed};

    while (passed[0] > 0 || passed[1] > 0 || frames > 0) {
        size_t part = left < passed[which] ? left : passed[which];

        if (left == 0) {
            CHECK(frames-- > 0);
            which = content[at + 7] == before[0].stream ? 0 : 1;
            CHECK(content[at + 7] == before[which].stream);
            left = (size_t)content[at + 8] << 24 | (size_t)content[at + 9] << 16 | (size_t)content[at + 10] << 8 |
                   content[at + 11];
            at += FRAME;
            continue;
        }
        if (part == 0) { /* the last target is full */
            CHECK(passed[0] == 0 && passed[1] == 0 && frames == 0);
            break;
        }
        CHECK(recv(others[which], seen, part, MSG_DONTWAIT | MSG_WAITALL) == (ssize_t)part);
        CHECK(memcmp(seen, content + at, part) == 0);
        at += part;
        left -= part;
        passed[which] -= part;
    }
    return at;
}

/* All data is passed on or left over, once and in order, whatever the frames, and however full a target. */
static void send_and_pass(struct direction *sealer, struct direction *opener)
{
    struct buffer *outgoing = mt_buffer_new(), *incoming = mt_buffer_new();
    size_t size = write_frames(content, 1 + draw(draw(2) ? 3000 : 200000)), sent_so_far = 0, at = 0;
    struct sink sinks[2] = {{.stream = 5, .limit = draw(4) ? UINT64_MAX : draw(100000)}, {.stream = 7}};
    int lane[2], local[2][2], space = 4096 << draw(8);

    CHECK(outgoing != NULL && incoming != NULL && socketpair(AF_UNIX, SOCK_STREAM, 0, lane) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, local[i]) == 0);
        setsockopt(local[i][0], SOL_SOCKET, SO_SNDBUF, &space, sizeof space);
        sinks[i].target = local[i][0];
        sinks[i].limit = draw(4) ? UINT64_MAX : draw(100000);
    }
    while (at < size) {
        size_t room = RECORD + EXPANSION + draw(BATCH), rest;
        uint8_t *in = edge(0, size - sent_so_far), *out = edge(1, room);
        struct piece piece = {in, size - sent_so_far};
        struct sink before[2] = {sinks[0], sinks[1]};
        const int others[2] = {local[sinks[0].target == local[1][0]][1], local[sinks[1].target == local[1][0]][1]};
        struct passed passed;
        struct sent sent;
        int stop;

        memcpy(in, content + sent_so_far, piece.size);
        CHECK(mt_send(sealer, outgoing, lane[0], DATA, &piece, 1, 0, &sent) >= 0);
        sent_so_far += sent.taken;
        stop = mt_pass(opener, incoming, lane[1], out, room, 1 + draw(300000), sinks, 2, &passed);
        CHECK(stop == SOCKET_EMPTY || stop == BUDGET);
        CHECK(passed.start <= passed.opened.filled && passed.opened.filled <= room && passed.frames <= MOST_FRAMES);
        CHECK(passed.current < 2 && (sinks[1 - passed.current].left == 0 || passed.current == 0));
        at = compare_passed(at, before, sinks, passed.frames, others);
        rest = passed.opened.filled - passed.start;
        CHECK(at + rest <= size && memcmp(out + passed.start, content + at, rest) == 0);
        for (int i = 0; i < 2; i++) {
            CHECK(sinks[i].offset <= sinks[i].limit && sinks[i].left <= sinks[i].limit - sinks[i].offset);
            CHECK(sinks[i].offset == before[i].offset + sinks[i].passed && sinks[i].error == 0);
            sinks[i].passed = 0;
            sinks[i].full = 0;
        }
        at += rest;
        if (passed.current == 1) {
            struct sink other = sinks[0];

            sinks[0] = sinks[1];
            sinks[1] = other;
        }
        if (rest > 0) { /* Python would parse the left-over bytes; here any position will do */
            for (int i = 0; i < 2; i++) {
                uint64_t most = size - at < 1000 ? size - at : 1000;

                sinks[i].left = 0;
                sinks[i].offset = draw(2) ? draw(sinks[i].limit) : sinks[i].offset;
                if (i == 0 && draw(2))
                    sinks[i].left = draw(most < sinks[i].limit - sinks[i].offset ? most : sinks[i].limit - sinks[i].offset);
            }
        }
    }
    for (int i = 0; i < 2; i++)
        close(lane[i]), close(local[0][i]), close(local[1][i]);
    mt_buffer_free(outgoing);
    mt_buffer_free(incoming);
}

/* Data of a hypervisor is read into rooms that end at a guard page, and is received by the other one. */
static void carry_and_pass(struct direction *sealer, struct direction *opener)
{
    struct buffer *outgoing = mt_buffer_new(), *incoming = mt_buffer_new();
    size_t size = draw(draw(2) ? 3000 : 300000), said = 0, read = 0, got = 0;
    int from[2], lane[2], to[2], space = 4096 << draw(8), over = 0;
    struct sink sink = {.stream = 5, .limit = UINT64_MAX};

    CHECK(outgoing != NULL && incoming != NULL && socketpair(AF_UNIX, SOCK_STREAM, 0, from) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, lane) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, to) == 0);
    setsockopt(lane[0], SOL_SOCKET, SO_SNDBUF, &space, sizeof space);
    sink.target = to[0];
    scatter(content, size);
    while (got < size && !over) {
        size_t rooms[2] = {draw(draw(2) ? 100 : 70000), draw(draw(2) ? 100 : 300000)};
        size_t room = RECORD + EXPANSION + draw(BATCH), left;
        uint8_t *out = edge(1, room);
        struct room parts[2] = {{edge(0, rooms[0]), rooms[0]}, {edge(2, rooms[1]), rooms[1]}};
        ssize_t count = send(from[0], content + said, size - said, MSG_DONTWAIT | MSG_NOSIGNAL);
        struct carried carried;
        struct passed passed;
        int stop;

        said += count > 0 ? (size_t)count : 0;
        stop = mt_carry(sealer, outgoing, lane[0], from[1], 5, read, parts, 2, &carried);
        CHECK(stop == BUDGET || stop == SOCKET_FULL || stop == SOURCE_EMPTY);
        left = carried.read;
        for (size_t i = 0; i < 2; i++) {
            size_t part = left < rooms[i] ? left : rooms[i];

            CHECK(memcmp(parts[i].data, content + read, part) == 0);
            read += part;
            left -= part;
        }
        do {
            sink.passed = 0;
            stop = mt_pass(opener, incoming, lane[1], out, room, 1 << 20, &sink, 1, &passed);
            CHECK(stop == SOCKET_EMPTY || stop == BUDGET);
            while ((count = recv(to[1], seen, SPACE, MSG_DONTWAIT)) > 0) {
                CHECK(memcmp(seen, content + got, (size_t)count) == 0);
                got += (size_t)count;
            }
            over = passed.start < passed.opened.filled; /* Python would continue with the left-over data */
            CHECK(!over || sink.full || passed.frames == MOST_FRAMES || passed.opened.filled - passed.start < FRAME);
        } while (sink.passed > 0 && !over);
    }
    CHECK(sealer->failed == 0 && opener->failed == 0);
    for (int i = 0; i < 2; i++)
        close(from[i]), close(lane[i]), close(to[i]);
    mt_buffer_free(outgoing);
    mt_buffer_free(incoming);
}

static void play(const struct provider *provider)
{
    uint8_t key[32], iv[NONCE];
    uint64_t number = draw(2) ? draw(1 << 20) : draw(1ULL << 40) << 23;
    int suite = (int)draw(SUITES);
    size_t size = 0, plain = 0, got, hurt;
    struct direction *sealer, *opener;

    scatter(key, sizeof key);
    scatter(iv, sizeof iv);
    sealer = mt_direction_new(provider, suite, 1, key, iv, number, UINT64_MAX);
    opener = mt_direction_new(provider, suite, 0, key, iv, number, UINT64_MAX);
    CHECK(sealer != NULL && opener != NULL);
    if (draw(8) == 0)
        send_and_open(sealer, opener);
    else if (draw(8) == 0)
        send_and_pass(sealer, opener);
    else if (draw(8) == 0)
        carry_and_pass(sealer, opener);
    else {
        for (size_t parts = 1 + draw(PARTS); parts > 0; parts--)
            add(sealer, &size, &plain);
        hurt = draw(4) ? draw(4) : 0;
        for (size_t i = 0; i < hurt && size > 0; i++)
            size = damage(size);
        got = draw(2) ? open_all(opener, size) : receive_all(opener, size);
        CHECK(got <= plain && memcmp(seen, content, got) == 0);
        CHECK(got == plain || hurt > 0 || opener->failed != 0);
    }
    mt_direction_free(sealer);
    mt_direction_free(opener);
}

int main(int count, char **arguments)
{
    static struct provider *provider; /* never freed: not a leak */
    char why[512] = "";
    uint64_t seed, rounds;

    CHECK(count == 4 || count == 5);
    seed = strtoull(arguments[1], NULL, 10);
    rounds = strtoull(arguments[2], NULL, 10);
    provider = mt_provider(arguments[3], why, sizeof why);
    if (provider == NULL || (count == 5 && mt_use_ipsec_mb(provider, arguments[4], why, sizeof why) == NULL)) {
        fprintf(stderr, "%s\n", why);
        return 2;
    }
    for (uint64_t round = 0; round < rounds; round++) {
        current = seed + round; /* this round alone: fuzz CURRENT 1 */
        state = current * 0x9E3779B97F4A7C15ULL | 1;
        play(provider);
    }
    printf("%llu rounds\n", (unsigned long long)rounds);
    return 0;
}
