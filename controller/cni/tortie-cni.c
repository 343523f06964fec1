/*
 * tortie-cni: the CNI plugin that container runtimes run, once for each ADD and DEL.
 *
 * It hands its environment, its standard input and an open descriptor of the container's network namespace to the
 * agent, and gives back the agent's answer. The descriptor spares the agent every host path and mount. Only VERSION
 * is answered here. The protocol is described in protocol.py; shim.py does the same in Python, byte for byte.
 *
 *     gcc -O2 -static -Wall -Wextra -Werror -o build/tortie-cni controller/cni/tortie-cni.c
 *
 * No memory is allocated: every buffer is static, and its pages cost nothing until they are touched.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef DEADLINE_SECONDS
#define DEADLINE_SECONDS 60 /* for the whole call; container runtimes give up after minutes */
#endif

#ifndef DEFAULT_SOCKET
#define DEFAULT_SOCKET "/run/tortie/cni.sock"
#endif
#define DEFAULT_CNI_VERSION "1.1.0"
#define CNI_VERSIONS "\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""
#define MAGIC "TCNI"
#define MAGIC_BYTES 4
#define PROTOCOL_VERSION 1
#define REQUEST_HEADER_BYTES 16
#define REPLY_HEADER_BYTES 12
#define MAX_INPUT_BYTES (1u << 20)
#define MAX_ENVIRONMENT_BYTES (1u << 18)
#define MAX_OUTPUT_BYTES (1u << 20)
#define MAX_EXIT_STATUS 255
#define MAX_VERSION_BYTES 16
#define SHOWN_PATH_BYTES 200

/* Well-known error codes of the CNI specification. */
enum {
    INVALID_ENVIRONMENT = 4,
    IO_FAILURE = 5,
    DECODE_FAILURE = 6,
    INVALID_CONFIG = 7,
    TRY_AGAIN_LATER = 11,
    PLUGIN_NOT_AVAILABLE = 50
};

static const char unavailable_advice[] =
    "start tortie-agent on this node, or set agent_socket in the network configuration to the agent's socket";

extern char **environ;

static struct timespec started;
static char cni_version[MAX_VERSION_BYTES + 1] = DEFAULT_CNI_VERSION;
static unsigned char input[MAX_INPUT_BYTES + 1];
static unsigned char scratch[MAX_INPUT_BYTES + 1];
static unsigned char member_value[MAX_INPUT_BYTES + 1];
static unsigned char request[REQUEST_HEADER_BYTES + MAX_ENVIRONMENT_BYTES + MAX_INPUT_BYTES];
static unsigned char output[MAX_OUTPUT_BYTES];

/* ------------------------------------------------------------------------------------------------------- answers */

static int write_all(const void *bytes, size_t length)
{
    const char *at = bytes;

    while (length > 0) {
        ssize_t written = write(STDOUT_FILENO, at, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        at += written;
        length -= (size_t)written;
    }
    return 0;
}

/* Appends text as the inside of a JSON string: what is not printable ASCII becomes a question mark. */
static size_t quote(char *to, const char *text)
{
    size_t length = 0;

    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\')
            to[length++] = '\\';
        to[length++] = byte >= 0x20 && byte < 0x7f ? (char)byte : '?';
    }
    to[length] = '\0';
    return length;
}

/* Writes a CNI error to standard output and returns the exit status. */
__attribute__((format(printf, 3, 4))) static int fail(int code, const char *details, const char *format, ...)
{
    char message[1024], quoted[2 * sizeof message], whole[sizeof quoted + 1024];
    va_list arguments;
    int length;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    quote(quoted, message);
    length = snprintf(whole, sizeof whole, "{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n",
                      cni_version, code, quoted, details);
    write_all(whole, (size_t)length);
    return 1;
}

static int answer_version(void)
{
    char whole[256];
    int length = snprintf(whole, sizeof whole, "{\"cniVersion\":\"%s\",\"supportedVersions\":[%s]}\n", cni_version,
                          CNI_VERSIONS);

    return write_all(whole, (size_t)length) < 0;
}

/* ------------------------------------------------------------------------------------------------------ deadline */

static long remaining_milliseconds(void)
{
    struct timespec now;
    long passed;

    clock_gettime(CLOCK_MONOTONIC, &now);
    passed = (now.tv_sec - started.tv_sec) * 1000 + (now.tv_nsec - started.tv_nsec) / 1000000;
    return passed >= DEADLINE_SECONDS * 1000L ? 0 : DEADLINE_SECONDS * 1000L - passed;
}

/* Lets the next blocking call on the socket end with EAGAIN at the deadline; it holds for connect(2) too. */
static int arm(int socket_descriptor, int option)
{
    long left = remaining_milliseconds();
    struct timeval limit = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};

    if (left == 0) {
        errno = EAGAIN; /* a zero limit would mean none */
        return -1;
    }
    return setsockopt(socket_descriptor, SOL_SOCKET, option, &limit, sizeof limit);
}

/* --------------------------------------------------------------------------------------------------------- input */

/* Reads standard input to its end; returns its length, or -1 with errno (EFBIG beyond the bound, ETIMEDOUT). */
static ssize_t read_input(void)
{
    size_t length = 0;

    for (;;) {
        struct pollfd waiting = {.fd = STDIN_FILENO, .events = POLLIN};
        int ready = poll(&waiting, 1, (int)remaining_milliseconds());
        ssize_t got;
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready == 0)
            errno = ETIMEDOUT;
        if (ready <= 0)
            return -1;
        got = read(STDIN_FILENO, input + length, sizeof input - length);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            return (ssize_t)length;
        length += (size_t)got;
        if (length > MAX_INPUT_BYTES) {
            errno = EFBIG;
            return -1;
        }
    }
}

/* Looks for one top-level string member; the agent, which gets all of the input, judges whether it is valid JSON. */
struct scanner {
    const unsigned char *at;
    const unsigned char *end;
};

static int next_byte(const struct scanner *scanner)
{
    return scanner->at < scanner->end ? *scanner->at : -1;
}

static void skip_space(struct scanner *scanner)
{
    for (int byte = next_byte(scanner); byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
         byte = next_byte(scanner))
        scanner->at++;
}

/* Returns the value of the four hexadecimal digits at `at`, or -1. */
static long hexadecimal(const unsigned char *at, const unsigned char *end)
{
    long value = 0;

    if (end - at < 4)
        return -1;
    for (int index = 0; index < 4; index++) {
        unsigned char digit = at[index];
        if (digit >= '0' && digit <= '9')
            value = value * 16 + digit - '0';
        else if ((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f')
            value = value * 16 + (digit | 0x20) - 'a' + 10;
        else
            return -1;
    }
    return value;
}

/* Reads what follows `\u`, a second half of a surrogate pair included; returns the code point or -1. */
static long scan_code_point(struct scanner *scanner)
{
    long first = hexadecimal(scanner->at, scanner->end), second;

    if (first < 0)
        return -1;
    scanner->at += 4;
    if (first < 0xd800 || first > 0xdbff || scanner->end - scanner->at < 6 || scanner->at[0] != '\\' ||
        scanner->at[1] != 'u')
        return first;
    second = hexadecimal(scanner->at + 2, scanner->end);
    if (second < 0xdc00 || second > 0xdfff)
        return first;
    scanner->at += 6;
    return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
}

static size_t encode_utf8(unsigned char *to, long code_point)
{
    if (code_point < 0x80) {
        to[0] = (unsigned char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        to[0] = (unsigned char)(0xc0 | code_point >> 6);
        to[1] = (unsigned char)(0x80 | (code_point & 0x3f));
        return 2;
    }
    if (code_point < 0x10000) {
        to[0] = (unsigned char)(0xe0 | code_point >> 12);
        to[1] = (unsigned char)(0x80 | (code_point >> 6 & 0x3f));
        to[2] = (unsigned char)(0x80 | (code_point & 0x3f));
        return 3;
    }
    to[0] = (unsigned char)(0xf0 | code_point >> 18);
    to[1] = (unsigned char)(0x80 | (code_point >> 12 & 0x3f));
    to[2] = (unsigned char)(0x80 | (code_point >> 6 & 0x3f));
    to[3] = (unsigned char)(0x80 | (code_point & 0x3f));
    return 4;
}

/* Decodes a string into `to`, which is as large as the input: no escape is shorter than what it stands for. */
static ssize_t scan_string(struct scanner *scanner, unsigned char *to)
{
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    size_t length = 0;

    if (next_byte(scanner) != '"')
        return -1;
    scanner->at++;
    while (scanner->at < scanner->end) {
        unsigned char byte = *scanner->at++;
        if (byte == '"')
            return (ssize_t)length;
        if (byte != '\\') {
            to[length++] = byte;
            continue;
        }
        if (scanner->at == scanner->end)
            return -1;
        byte = *scanner->at++;
        if (byte == 'u') {
            long code_point = scan_code_point(scanner);
            if (code_point < 0)
                return -1;
            length += encode_utf8(to + length, code_point);
        } else {
            const char *escape = byte == '\0' ? NULL : strchr(escapes, byte);
            if (escape == NULL)
                return -1;
            to[length++] = (unsigned char)meanings[escape - escapes];
        }
    }
    return -1;
}

/* Moves to the comma or brace that ends the value; brackets are counted, not matched. */
static int skip_value(struct scanner *scanner)
{
    size_t depth = 0;

    for (int byte = next_byte(scanner); byte >= 0; byte = next_byte(scanner)) {
        if (depth == 0 && (byte == ',' || byte == '}'))
            return 0;
        if (byte == '"') {
            if (scan_string(scanner, scratch) < 0)
                return -1;
            continue;
        }
        if (byte == '{' || byte == '[')
            depth++;
        else if (byte == '}' || byte == ']') {
            if (depth == 0)
                return -1;
            depth--;
        }
        scanner->at++;
    }
    return -1;
}

/* Reads one value; its length goes to *found (-1 unless it is a string) when this is the wanted member. */
static int scan_value(struct scanner *scanner, int wanted, ssize_t *found)
{
    ssize_t length = -1;

    if (next_byte(scanner) == '"') {
        length = scan_string(scanner, wanted ? member_value : scratch);
        if (length < 0)
            return -1;
    } else if (skip_value(scanner) < 0)
        return -1;
    if (wanted)
        *found = length;
    return 0;
}

/* Decodes the top-level string member `name` into member_value; returns its length or -1. The last one counts. */
static ssize_t find_member(size_t input_length, const char *name)
{
    struct scanner scanner = {input, input + input_length};
    ssize_t found = -1;
    int separator;

    skip_space(&scanner);
    if (next_byte(&scanner) != '{')
        return -1;
    do {
        ssize_t key_length;
        int wanted;
        scanner.at++;
        skip_space(&scanner);
        key_length = scan_string(&scanner, scratch);
        skip_space(&scanner);
        if (key_length < 0 || next_byte(&scanner) != ':')
            return -1;
        scanner.at++;
        skip_space(&scanner);
        wanted = (size_t)key_length == strlen(name) && memcmp(scratch, name, (size_t)key_length) == 0;
        if (scan_value(&scanner, wanted, &found) < 0)
            return -1;
        skip_space(&scanner);
        separator = next_byte(&scanner);
    } while (separator == ',');
    return separator == '}' ? found : -1;
}

/* Answers carry the caller's version, if it looks like one. */
static void choose_version(size_t input_length)
{
    ssize_t length = find_member(input_length, "cniVersion");

    if (length < 1 || length > MAX_VERSION_BYTES)
        return;
    for (ssize_t index = 0; index < length; index++)
        if (member_value[index] != '.' && (member_value[index] < '0' || member_value[index] > '9'))
            return;
    memcpy(cni_version, member_value, (size_t)length);
    cni_version[length] = '\0';
}

/* ------------------------------------------------------------------------------------------------------- request */

/* Puts the CNI_ variables behind the request's header; returns their length, or -1 beyond the bound. */
static ssize_t gather_environment(void)
{
    unsigned char *to = request + REQUEST_HEADER_BYTES;
    size_t length = 0;

    for (char **variable = environ; *variable != NULL; variable++) {
        size_t bytes = strlen(*variable) + 1;
        if (strncmp(*variable, "CNI_", 4) != 0 || strchr(*variable, '=') == NULL)
            continue;
        if (bytes > MAX_ENVIRONMENT_BYTES - length)
            return -1;
        memcpy(to + length, *variable, bytes);
        length += bytes;
    }
    return (ssize_t)length;
}

/* Opens the namespace; returns its descriptor, or -1 with errno. O_NONBLOCK: a FIFO must not hold us. */
static int open_namespace(void)
{
    const char *path = getenv("CNI_NETNS");
    int descriptor;

    do
        descriptor = open(path == NULL ? "" : path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

static size_t build_request(int namespace_errno, size_t environment_length, size_t input_length)
{
    uint16_t halves[2] = {htons(PROTOCOL_VERSION), htons((uint16_t)namespace_errno)};
    uint32_t lengths[2] = {htonl((uint32_t)environment_length), htonl((uint32_t)input_length)};

    memcpy(request, MAGIC, MAGIC_BYTES);
    memcpy(request + 4, halves, sizeof halves);
    memcpy(request + 8, lengths, sizeof lengths);
    memcpy(request + REQUEST_HEADER_BYTES + environment_length, input, input_length);
    return REQUEST_HEADER_BYTES + environment_length + input_length;
}

/* ------------------------------------------------------------------------------------------------------ exchange */

/* Returns a socket connected to the agent, or -1 with errno. */
static int connect_agent(const char *path, size_t path_length)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (descriptor < 0)
        return -1;
    memcpy(address.sun_path, path, path_length);
    for (;;) {
        if (arm(descriptor, SO_SNDTIMEO) < 0)
            return -1;
        if (connect(descriptor, (const struct sockaddr *)&address, sizeof address) == 0)
            return descriptor;
        if (errno != EINTR)
            return -1;
    }
}

/* Sends the request, the descriptor (if not -1) with its first byte. An agent that hangs up has answered already. */
static int send_request(int agent, int namespace_descriptor, size_t length)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec part = {.iov_base = request, .iov_len = length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (namespace_descriptor >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &namespace_descriptor, sizeof namespace_descriptor);
    }
    while (part.iov_len > 0) {
        ssize_t sent;
        if (arm(agent, SO_SNDTIMEO) < 0)
            return -1;
        sent = sendmsg(agent, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EPIPE || errno == ECONNRESET ? 0 : -1;
        part.iov_base = (char *)part.iov_base + sent;
        part.iov_len -= (size_t)sent;
        message.msg_control = NULL;
        message.msg_controllen = 0;
    }
    return 0;
}

/* Receives exactly that many bytes; returns -1 with errno, which is 0 when the agent hung up before. */
static int receive_exactly(int agent, void *bytes, size_t length)
{
    char *at = bytes;

    while (length > 0) {
        ssize_t got;
        if (arm(agent, SO_RCVTIMEO) < 0)
            return -1;
        got = recv(agent, at, length, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got == 0)
            errno = 0;
        if (got <= 0)
            return -1;
        at += got;
        length -= (size_t)got;
    }
    return 0;
}

static int fail_unavailable(const char *path, const char *what)
{
    const char *command = getenv("CNI_COMMAND");
    int code = command != NULL && strcmp(command, "STATUS") == 0 ? PLUGIN_NOT_AVAILABLE : TRY_AGAIN_LATER;

    return fail(code, unavailable_advice, "the tortie agent at %s %s", path, what);
}

/* Explains an exchange that ended with this errno. */
static int fail_exchange(const char *path, int error)
{
    char what[256];

    if (error == EAGAIN)
        snprintf(what, sizeof what, "did not answer within %d seconds", DEADLINE_SECONDS);
    else if (error == 0)
        snprintf(what, sizeof what, "hung up without an answer");
    else
        snprintf(what, sizeof what, "cannot be reached: %s", strerror(error));
    return fail_unavailable(path, what);
}

/* Receives the agent's answer, prints it and returns its exit status. */
static int relay_answer(int agent, const char *path)
{
    unsigned char header[REPLY_HEADER_BYTES];
    uint32_t numbers[2];

    if (receive_exactly(agent, header, sizeof header) < 0)
        return fail_exchange(path, errno);
    memcpy(numbers, header + MAGIC_BYTES, sizeof numbers);
    numbers[0] = ntohl(numbers[0]);
    numbers[1] = ntohl(numbers[1]);
    if (memcmp(header, MAGIC, MAGIC_BYTES) != 0 || numbers[0] > MAX_EXIT_STATUS || numbers[1] > MAX_OUTPUT_BYTES)
        return fail_unavailable(path, "sent no answer of this plugin's protocol");
    if (receive_exactly(agent, output, numbers[1]) < 0)
        return fail_exchange(path, errno);
    if (write_all(output, numbers[1]) < 0)
        return 1;
    return (int)numbers[0];
}

/* Asks the agent at this path; `input` holds the standard input. */
static int ask_agent(const char *path, size_t path_length, size_t input_length)
{
    ssize_t environment_length = gather_environment();
    int agent, namespace_descriptor;
    size_t length;

    if (environment_length < 0)
        return fail(INVALID_ENVIRONMENT, "shorten CNI_ARGS", "the CNI_ variables are larger than %u bytes",
                    MAX_ENVIRONMENT_BYTES);
    namespace_descriptor = open_namespace();
    length = build_request(namespace_descriptor < 0 ? errno : 0, (size_t)environment_length, input_length);
    agent = connect_agent(path, path_length);
    if (agent < 0 || send_request(agent, namespace_descriptor, length) < 0)
        return fail_exchange(path, errno);
    return relay_answer(agent, path);
}

int main(void)
{
    const char *command = getenv("CNI_COMMAND"), *path = DEFAULT_SOCKET;
    ssize_t input_length, path_length;

    clock_gettime(CLOCK_MONOTONIC, &started);
    signal(SIGPIPE, SIG_IGN);
    if (command == NULL || *command == '\0')
        return fail(INVALID_ENVIRONMENT, "this is a CNI plugin: a container runtime runs it, with CNI_COMMAND set",
                    "CNI_COMMAND is not set");
    input_length = read_input();
    if (input_length < 0 && errno == EFBIG)
        return fail(DECODE_FAILURE, "shorten the network configuration",
                    "the network configuration on standard input is larger than %u bytes", MAX_INPUT_BYTES);
    if (input_length < 0)
        return fail(IO_FAILURE, "the network configuration is expected there, up to the end of the file",
                    "standard input cannot be read: %s", strerror(errno));
    choose_version((size_t)input_length);
    if (strcmp(command, "VERSION") == 0)
        return answer_version();
    path_length = find_member((size_t)input_length, "agent_socket");
    if (path_length >= 0) {
        path = (const char *)member_value;
        member_value[path_length] = '\0';
        if (*path != '/' || strlen(path) != (size_t)path_length ||
            (size_t)path_length >= sizeof ((struct sockaddr_un *)NULL)->sun_path)
            return fail(INVALID_CONFIG, "set agent_socket to the agent's cni.sock, or leave it out",
                        "agent_socket %.*s is not an absolute path of at most 107 bytes", SHOWN_PATH_BYTES, path);
    } else
        path_length = (ssize_t)strlen(path);
    return ask_agent(path, (size_t)path_length, (size_t)input_length);
}
