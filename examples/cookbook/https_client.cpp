// Cookbook: an API over HTTPS: OpenSSL below the streams, HTTP above them, no name unchecked.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/https_client.cpp -o https -lssl -lcrypto && ./https
//
// What it teaches: make_streams() makes streams of a TLS session, and HTTP is written for streams,
// so the two need not know each other. A server has to show a certificate that somebody vouches
// for whom this machine trusts, for the very name (or address) in the URL, and not expired. What
// ends without a goodbye was cut off, and is an error, too.
// Look at: why the bad servers are refused, before they have seen a request. Without a URL it plays
// these servers itself, with a certificate authority of its own; an agent's request looks like
// `./https --header "Authorization: Bearer KEY" --data '{"ask": "Why?"}' https://example.org/`.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
using namespace std::chrono_literals;
using std::string;

template <auto Free>
struct freed_by {
    template <class T>
    void operator()(T* p) const { Free(p); }
};
using tls_context = std::unique_ptr<SSL_CTX, freed_by<SSL_CTX_free>>;
using certificate = std::unique_ptr<X509, freed_by<X509_free>>;
using private_key = std::unique_ptr<EVP_PKEY, freed_by<EVP_PKEY_free>>;

// ---- 1. TLS, as in tls_openssl.cpp -------------------------------------------------------------
class tls_session {
public:
    /// As a client that expects `host`, a name or an address; with none, as a server.
    tls_session(asyncio::stream_pair plain, SSL_CTX& context, const string& host)
        : plain_(std::move(plain)), ssl_(SSL_new(&context)), in_(BIO_new(BIO_s_mem())),
          out_(BIO_new(BIO_s_mem())), host_(host) {
        SSL_set_bio(ssl_.get(), in_, out_); // which owns them from now on
        if (host.empty()) SSL_set_accept_state(ssl_.get());
        else SSL_set_connect_state(ssl_.get());
        if (host.empty()) return;
        X509_VERIFY_PARAM* const wanted = SSL_get0_param(ssl_.get());
        if (X509_VERIFY_PARAM_set1_ip_asc(wanted, host.c_str()) == 1) return;
        X509_VERIFY_PARAM_set_hostflags(wanted, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        const bool known = SSL_set1_host(ssl_.get(), host.c_str()) == 1 && // whose it must be
                           SSL_ctrl(ssl_.get(), SSL_CTRL_SET_TLSEXT_HOSTNAME, // which is asked for
                                    TLSEXT_NAMETYPE_host_name, host_.data()) == 1;
        if (!known) throw std::runtime_error("TLS: not the name of a host: " + host);
    }

    asyncio::coro<> handshake() {
        co_await until_done([ssl = ssl_.get()] { return SSL_do_handshake(ssl); });
    }
    asyncio::coro<std::size_t> recv(std::span<std::byte> target) {
        const int n = static_cast<int>(std::min(target.size(), std::size_t(1) << 20));
        auto* const to = target.data();
        co_return co_await until_done([ssl = ssl_.get(), to, n] { return SSL_read(ssl, to, n); });
    }
    asyncio::coro<std::size_t> send(std::span<const std::byte> data) {
        const int n = static_cast<int>(std::min(data.size(), std::size_t(1) << 20));
        auto* const from = data.data();
        const std::size_t sent = co_await until_done(
            [ssl = ssl_.get(), from, n] { return SSL_write(ssl, from, n); });
        co_await plain_.second.drain();
        co_return sent;
    }
    asyncio::coro<> shutdown() {
        SSL_shutdown(ssl_.get()); // says goodbye, and does not wait for the answer
        pass_on();
        plain_.second.close();
        co_return;
    }

private:
    // Does a step of OpenSSL again, with more from the peer, until it need not wait for it.
    template <class Step>
    asyncio::coro<std::size_t> until_done(Step step) {
        for (;;) {
            ERR_clear_error();
            const int done = step();
            const int error = SSL_get_error(ssl_.get(), done);
            const string why = reason();
            pass_on(); // also the alert that tells the peer what is wrong
            if (done > 0) co_return static_cast<std::size_t>(done);
            if (error == SSL_ERROR_ZERO_RETURN) co_return 0; // the peer has said goodbye
            if (error != SSL_ERROR_WANT_READ) throw std::runtime_error("TLS: " + why);
            const string records = co_await plain_.first.read(64 * 1024);
            if (records.empty()) throw std::runtime_error("TLS: the connection was cut off");
            BIO_write(in_, records.data(), static_cast<int>(records.size()));
        }
    }
    string reason() const {
        const long verified = SSL_get_verify_result(ssl_.get());
        if (verified != X509_V_OK)
            return "no certificate for " + host_ + ": " + X509_verify_cert_error_string(verified);
        const char* const text = ERR_reason_error_string(ERR_peek_error());
        return text ? text : "it failed";
    }
    void pass_on() {
        char* data = nullptr;
        const long size = BIO_get_mem_data(out_, &data);
        plain_.second.write(std::string_view(data, static_cast<std::size_t>(size)));
        BIO_reset(out_);
    }

    asyncio::stream_pair plain_;
    std::unique_ptr<SSL, freed_by<SSL_free>> ssl_;
    BIO *in_, *out_; // records: come, and to be sent
    string host_;
};

asyncio::coro<asyncio::stream_pair> start_tls(asyncio::stream_pair plain, SSL_CTX& context,
                                              string host = "") {
    tls_session session(std::move(plain), context, host);
    co_await session.handshake();
    co_return asyncio::make_streams(std::move(session));
}

tls_context make_context(const string& authorities = "") { // a file; without it the system's
    tls_context context(SSL_CTX_new(TLS_method()));
    SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
    SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION); // so that send() need not recv()
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
    if (authorities.empty()) SSL_CTX_set_default_verify_paths(context.get());
    else if (SSL_CTX_load_verify_file(context.get(), authorities.c_str()) != 1)
        throw std::runtime_error("no certificates are in " + authorities);
    return context;
}

// ---- 2. HTTP -----------------------------------------------------------------------------------
struct response {
    int status = 0;
    std::map<string, string> fields = {}; // by name in lower case
    string body = {};
};

asyncio::coro<response> receive(asyncio::stream_reader& reader) {
    response r;
    string line = co_await reader.readline();
    if (std::sscanf(line.c_str(), "HTTP/1.%*d %d", &r.status) != 1)
        throw std::runtime_error(line.empty() ? "no answer" : "an answer that is not HTTP");
    for (;;) {
        line = co_await reader.readline();
        const std::size_t colon = line.find(':'), start = line.find_first_not_of(" \t", colon + 1);
        if (colon == string::npos) break; // the empty line
        string name = line.substr(0, colon);
        for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 'a' - 'A') : c;
        r.fields[name] = line.substr(start, line.find_last_not_of("\r\n ") + 1 - start);
    }
    const string length = r.fields["content-length"];
    if (r.status / 100 == 1 || r.status == 204 || r.status == 304) co_return r; // without a body
    if (r.fields["transfer-encoding"] == "chunked") { // "5\r\nhello\r\n0\r\n\r\n"
        for (long size = 1; size > 0;) {
            line = co_await reader.readline();
            size = std::strtol(line.c_str(), nullptr, 16);
            if (line.empty() || size < 0) throw std::runtime_error("broken chunks");
            r.body += co_await reader.readexactly(size);
            co_await reader.readline();
        }
    } else if (!length.empty()) r.body = co_await reader.readexactly(std::atol(length.c_str()));
    else r.body = co_await reader.read(); // up to the goodbye
    co_return r;
}

// GET, or POST if there is data. Fields are whole lines, "Name: value\r\n".
asyncio::coro<response> ask(SSL_CTX& context, string url, string fields = "", string data = "") {
    const auto is_space = [](char c) { return c >= 0 && c <= ' '; };
    const bool good = url.starts_with("https://") && std::none_of(url.begin(), url.end(), is_space);
    const string place = good ? url.substr(8, url.find('/', 8) - 8) : "";
    const std::size_t colon = place.rfind(':');
    const string host = place.substr(0, colon), path = good ? url.substr(8 + place.size()) : "";
    if (host.empty()) throw std::runtime_error("not an https:// URL: " + url);
    const int port = colon == string::npos ? 443 : std::atoi(place.c_str() + colon + 1);

    auto plain = co_await asyncio::open_connection(host, port);
    auto [reader, writer] = co_await start_tls(std::move(plain), context, host);
    if (!data.empty()) fields += "Content-Length: " + std::to_string(data.size()) + "\r\n";
    writer.write((data.empty() ? "GET " : "POST ") + (path.empty() ? "/" : path) + " HTTP/1.1\r\n" +
                 "Host: " + place + "\r\nConnection: close\r\n" + fields + "\r\n" + data);
    co_await writer.drain();
    response r = co_await receive(reader);
    while (r.status / 100 == 1) r = co_await receive(reader); // such as 103: the answer follows
    co_return r;
}

// ---- 3. Servers, good ones and bad ones --------------------------------------------------------
int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const string& text) {
    std::printf("%5.2f s  %s %s\n", asyncio::elapsed().total_seconds(),
                holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct authority { // who vouches for others
    private_key key = private_key(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"));
    certificate own = nullptr;

    explicit authority(const char* name) {
        own = sign(*key, name, NID_basic_constraints, "critical,CA:TRUE", 1);
    }
    // A certificate for who has a key, good for so many days from now on.
    certificate sign(EVP_PKEY& owner, const char* name, int extension, const char* value,
                     int days) {
        certificate c(X509_new());
        X509_set_version(c.get(), 2);
        X509_gmtime_adj(X509_getm_notBefore(c.get()), -7 * 24 * 3600);
        X509_gmtime_adj(X509_getm_notAfter(c.get()), days * 24 * 3600);
        X509_set_pubkey(c.get(), &owner);
        X509_NAME_add_entry_by_txt(X509_get_subject_name(c.get()), "CN", MBSTRING_ASC,
                                   reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
        X509_set_issuer_name(c.get(), X509_get_subject_name(own ? own.get() : c.get()));
        X509_EXTENSION* const made = X509V3_EXT_conf_nid(nullptr, nullptr, extension, value);
        X509_add_ext(c.get(), made, -1);
        X509_EXTENSION_free(made);
        X509_sign(c.get(), key.get(), EVP_sha256());
        return c;
    }
};

asyncio::coro<> serve(asyncio::stream_pair plain, SSL_CTX& context, std::vector<string>& requests) {
    try {
        tls_session session(std::move(plain), context, "");
        co_await session.handshake();
        string request; // what comes from this program ends so
        while (!request.ends_with("\r\n\r\n") && !request.ends_with("}")) {
            std::byte part[4096];
            const std::size_t size = co_await session.recv(part);
            if (size == 0) co_return;
            request.append(reinterpret_cast<const char*>(part), size);
        }
        requests.push_back(request);
        const bool cut = request.starts_with("GET /cut ");
        const string answer =
            string("HTTP/1.1 200 OK\r\n") +
            (cut ? "\r\nhalf an ans"
                 : "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n");
        co_await session.send(std::as_bytes(std::span(answer)));
        if (!cut) co_await session.shutdown();
    } catch (const std::exception&) {} // the client does not trust us, and has gone
}

// What a client gets from a server that shows a certificate, or why it gets nothing.
asyncio::coro<string> ask_one(SSL_CTX& client, X509& shown, EVP_PKEY& key, string place,
                              string data, std::vector<string>& requests) {
    const tls_context context = make_context();
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr); // clients have nothing to show
    SSL_CTX_use_certificate(context.get(), &shown);
    SSL_CTX_use_PrivateKey(context.get(), &key);
    const auto on_client = [&](asyncio::stream_reader reader, asyncio::stream_writer writer) {
        return serve({std::move(reader), std::move(writer)}, *context, requests);
    };
    asyncio::server server = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
    const std::size_t slash = place.find('/');
    const string port = ":" + std::to_string(server.port());
    string got;
    try {
        const response r = co_await ask(client, "https://" + place.insert(slash, port),
                                        "Authorization: Bearer KEY\r\n", data);
        got = std::to_string(r.status) + " " + r.body;
    } catch (const std::exception& e) {
        got = e.what();
    }
    server.close();
    co_await server.wait_closed(); // its tasks use the context
    co_return got;
}

asyncio::coro<int> try_it() {
    authority trusted("authority"), stranger("stranger");
    const private_key key(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"));
    const tls_context client = make_context();
    X509_STORE_add_cert(SSL_CTX_get_cert_store(client.get()), trusted.own.get());
    const auto sign = [&key](authority& by, const char* names, int days) {
        return by.sign(*key, "server", NID_subject_alt_name, names, days);
    };
    const char* const here = "DNS:localhost,IP:127.0.0.1";
    const certificate good = sign(trusted, here, 1), other = sign(trusted, "DNS:example.org", 1),
                      old = sign(trusted, here, -1), forged = sign(stranger, here, 1);
    const string data = "{\"ask\": \"Why?\"}";
    const string none = "TLS: no certificate for localhost: ";
    const struct {
        string what, place, data;
        const certificate& shown;
        string answer;
    } requests[] = {
        {"a page", "localhost/", "", good, "200 hello!"},
        {"a question", "localhost/ask", data, good, "200 hello!"},
        {"by the address", "127.0.0.1/", "", good, "200 hello!"},
        {"cut off", "localhost/cut", "", good, "TLS: the connection was cut off"},
        {"somebody else", "localhost/", data, other, none + "hostname mismatch"},
        {"somebody else, by the address", "127.0.0.1/", data, other,
         "TLS: no certificate for 127.0.0.1: IP address mismatch"},
        {"too old", "localhost/", data, old, none + "certificate has expired"},
        {"whom a stranger vouches for", "localhost/", data, forged,
         none + "unable to get local issuer certificate"}};
    std::vector<string> seen;
    for (const auto& r : requests) {
        const string got = co_await ask_one(*client, *r.shown, *key, r.place, r.data, seen);
        claim(got == r.answer, r.what + ": " + got);
    }
    claim(seen.size() == 4, "the bad ones have seen no request");
    claim(seen.at(1).starts_with("POST /ask ") && seen.at(1).ends_with("\r\n\r\n" + data) &&
              seen.at(1).find("\r\nAuthorization: Bearer KEY\r\n") != string::npos,
          "a good one has seen the key and the data");
    co_return broken == 0 ? 0 : 1;
}

asyncio::coro<int> show(string url, string authorities, string fields, string data) {
    const tls_context context = make_context(authorities);
    auto asking = ask(*context, url, fields, data);
    const response r = co_await asyncio::wait_for(std::move(asking), 60s);
    std::fwrite(r.body.data(), 1, r.body.size(), stdout);
    if (r.status / 100 != 2) std::fprintf(stderr, "%s: status %d\n", url.c_str(), r.status);
    co_return r.status / 100 == 2 ? 0 : 1;
}

int main(int argc, char** argv) {
    string url, authorities, fields, data;
    bool good = true;
    for (int i = 1; i < argc; ++i) {
        const string word = argv[i];
        const bool more = i + 1 < argc;
        if (word == "--ca" && more) authorities = argv[++i];
        else if (word == "--header" && more) fields += argv[++i] + string("\r\n");
        else if (word == "--data" && more) data = argv[++i];
        else if (!word.starts_with("--") && url.empty()) url = word;
        else good = good && word == "--quick" && argc == 2;
    }
    if (good && !url.empty()) return asyncio::run_main(show(url, authorities, fields, data));
    if (argc == 1 || (good && argc == 2)) return asyncio::run_main(try_it());
    const bool help = string(argv[1]) == "--help";
    std::fputs("Asks over HTTPS, and checks certificates.\n"
               "usage: https [--quick | [--ca FILE] [--header LINE]... [--data TEXT] URL]\n",
               help ? stdout : stderr);
    return help ? 0 : 2;
}
// Output:
//  0.12 s  holds:  a page: 200 hello!
//  0.16 s  holds:  a question: 200 hello!
//  0.19 s  holds:  by the address: 200 hello!
//  0.24 s  holds:  cut off: TLS: the connection was cut off
//  0.28 s  holds:  somebody else: TLS: no certificate for localhost: hostname mismatch
//  0.32 s  holds:  somebody else, by the address: TLS: no certificate for 127.0.0.1: IP address mismatch
//  0.37 s  holds:  too old: TLS: no certificate for localhost: certificate has expired
//  0.42 s  holds:  whom a stranger vouches for: TLS: no certificate for localhost: unable to get local issuer certificate
//  0.42 s  holds:  the bad ones have seen no request
//  0.42 s  holds:  a good one has seen the key and the data
