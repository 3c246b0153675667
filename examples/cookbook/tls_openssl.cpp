// Cookbook: TLS, by OpenSSL, below the streams that everything else is written for.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/tls_openssl.cpp -o tls -lssl -lcrypto && ./tls
//
// What it teaches: make_streams() takes anything that can recv(), send() and shut down. Here that
// is a TLS session, which turns bytes into records and back in memory, and a plain connection below
// it carries these. Servers and clients above cannot tell the difference.
// Look at: certificates are checked, and so is the name in them. Without options it is its own
// server, with a certificate that it makes; `./tls example.org 443` shows who is there, and
// `./tls --port 4433 cert.pem key.pem` serves until Ctrl-C (try `openssl s_client -port 4433`).
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
using namespace std::chrono_literals;

template <auto Free>
struct freed_by {
    template <class T>
    void operator()(T* p) const { Free(p); }
};
using tls_context = std::unique_ptr<SSL_CTX, freed_by<SSL_CTX_free>>;
using certificate = std::unique_ptr<X509, freed_by<X509_free>>;
using private_key = std::unique_ptr<EVP_PKEY, freed_by<EVP_PKEY_free>>;

class tls_session {
public:
    /// As a client that expects `host`; with none, as a server.
    tls_session(asyncio::stream_pair plain, SSL_CTX& context, const std::string& host)
        : plain_(std::move(plain)), ssl_(SSL_new(&context)), in_(BIO_new(BIO_s_mem())),
          out_(BIO_new(BIO_s_mem())) {
        SSL_set_bio(ssl_.get(), in_, out_); // which owns them from now on
        if (host.empty()) SSL_set_accept_state(ssl_.get());
        else SSL_set_connect_state(ssl_.get());
        if (host.empty()) return;
        SSL_ctrl(ssl_.get(), SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
                 const_cast<char*>(host.c_str())); // which of its certificates is wanted
        if (SSL_set1_host(ssl_.get(), host.c_str()) != 1) // and whose it must be
            throw std::runtime_error("TLS: not the name of a host: " + host);
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
        // Never in recv(): two peers that do not read before they have sent would wait for ever.
        co_await plain_.second.drain();
        co_return sent;
    }
    asyncio::coro<> shutdown() {
        SSL_shutdown(ssl_.get()); // says goodbye, and does not wait for the answer
        pass_on();
        plain_.second.close();
        co_return;
    }
    asyncio::address peername() const { return plain_.second.peername(); }
    asyncio::address sockname() const { return plain_.second.sockname(); }

private:
    // Does a step of OpenSSL again, with more from the peer, until it need not wait for it.
    template <class Step>
    asyncio::coro<std::size_t> until_done(Step step) {
        for (;;) {
            ERR_clear_error();
            const int done = step();
            const int error = SSL_get_error(ssl_.get(), done);
            const std::string why = reason();
            pass_on(); // also the alert that tells the peer what is wrong
            if (done > 0) co_return static_cast<std::size_t>(done);
            if (error == SSL_ERROR_ZERO_RETURN) co_return 0; // the peer has said goodbye
            if (error != SSL_ERROR_WANT_READ) throw std::runtime_error("TLS: " + why);
            const std::string records = co_await plain_.first.read(64 * 1024);
            if (records.empty()) throw std::runtime_error("TLS: the connection was cut off");
            BIO_write(in_, records.data(), static_cast<int>(records.size()));
        }
    }
    std::string reason() const {
        const long verified = SSL_get_verify_result(ssl_.get());
        if (verified != X509_V_OK) return X509_verify_cert_error_string(verified);
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
};

asyncio::coro<asyncio::stream_pair> start_tls(asyncio::stream_pair plain, SSL_CTX& context,
                                              std::string host = "") {
    tls_session session(std::move(plain), context, host);
    co_await asyncio::wait_for(session.handshake(), 30s);
    co_return asyncio::make_streams(std::move(session));
}

tls_context make_context(int verify) {
    tls_context context(SSL_CTX_new(TLS_method()));
    SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
    SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION); // so that send() need not recv()
    SSL_CTX_set_verify(context.get(), verify, nullptr);
    SSL_CTX_set_default_verify_paths(context.get()); // whom the system trusts
    return context;
}

// A certificate for `host` that vouches for itself.
certificate make_certificate(EVP_PKEY& key, const std::string& host) {
    certificate c(X509_new());
    X509_set_version(c.get(), 2);
    X509_gmtime_adj(X509_getm_notBefore(c.get()), -3600);
    X509_gmtime_adj(X509_getm_notAfter(c.get()), 24 * 3600);
    X509_set_pubkey(c.get(), &key);
    const std::string names = "DNS:" + host;
    X509_EXTENSION* const extension =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, names.c_str());
    X509_add_ext(c.get(), extension, -1);
    X509_EXTENSION_free(extension);
    X509_sign(c.get(), &key, EVP_sha256());
    return c;
}

// ---- An echo server and its clients, as over any streams ---------------------------------------
int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    const double seconds = asyncio::elapsed().total_seconds();
    std::printf("%5.2f s  %s %s\n", seconds, holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

asyncio::coro<> echo(asyncio::stream_pair plain, SSL_CTX& context) {
    try {
        auto [reader, writer] = co_await start_tls(std::move(plain), context);
        for (std::string data = "?"; !data.empty();) {
            data = co_await reader.read(64 * 1024);
            writer.write(data);
            co_await writer.drain();
        }
    } catch (const std::exception&) {} // the client is gone, or did not trust us
}

asyncio::coro<asyncio::server> start(SSL_CTX& context, int port) {
    const auto on_client = [&](asyncio::stream_reader reader, asyncio::stream_writer writer) {
        return echo({std::move(reader), std::move(writer)}, context);
    };
    return asyncio::start_server(on_client, "127.0.0.1", port);
}

// Sends a text to the server and gives what comes back, or the error.
asyncio::coro<std::string> ask(int port, SSL_CTX& context, std::string host, std::string text) {
    try {
        auto plain = co_await asyncio::open_connection("127.0.0.1", port);
        auto [reader, writer] = co_await start_tls(std::move(plain), context, host);
        writer.write(text);
        co_return co_await reader.readexactly(static_cast<std::ptrdiff_t>(text.size()));
    } catch (const std::exception& e) {
        co_return e.what();
    }
}

asyncio::coro<int> try_it(std::size_t size) {
    const private_key key(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"));
    const certificate own = make_certificate(*key, "museum.test");
    const tls_context context = make_context(SSL_VERIFY_NONE);
    SSL_CTX_use_certificate(context.get(), own.get());
    SSL_CTX_use_PrivateKey(context.get(), key.get());
    asyncio::server server = co_await start(*context, 0);
    const int port = server.port();

    const tls_context stranger = make_context(SSL_VERIFY_PEER);
    const tls_context client = make_context(SSL_VERIFY_PEER);
    X509_STORE_add_cert(SSL_CTX_get_cert_store(client.get()), own.get());
    std::string answer = co_await ask(port, *client, "museum.test", "hello");
    claim(answer == "hello", "there and back: " + answer);
    const std::string much(size, 'x');
    answer = co_await ask(port, *client, "museum.test", much);
    claim(answer == much, std::to_string(answer.size()) + " bytes there and back");
    answer = co_await ask(port, *client, "harbour.test", "hello");
    claim(answer == "TLS: hostname mismatch", "asked for by another name: " + answer);
    answer = co_await ask(port, *stranger, "museum.test", "hello");
    claim(answer.starts_with("TLS: self"), "by one who does not know the certificate: " + answer);
    auto nobody = co_await asyncio::open_connection("127.0.0.1", port);
    nobody.second.write("hello\n");
    answer = co_await nobody.first.read();
    claim(answer.find("hello") == std::string::npos, "without TLS there is no echo");
    server.close();
    co_await server.wait_closed(); // its tasks use the context
    co_return broken == 0 ? 0 : 1;
}

asyncio::coro<> show_head(std::string host, int port) { // of a web server's page
    const tls_context context = make_context(SSL_VERIFY_PEER);
    auto plain = co_await asyncio::open_connection(host, port);
    auto [reader, writer] = co_await start_tls(std::move(plain), *context, host);
    writer.write("HEAD / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n");
    const std::string head = co_await reader.readuntil("\r\n\r\n");
    std::printf("%s", head.c_str());
}

asyncio::coro<> serve(int port, std::string chain, std::string key) { // files, as PEM
    const tls_context context = make_context(SSL_VERIFY_NONE);
    if (SSL_CTX_use_certificate_chain_file(context.get(), chain.c_str()) != 1 ||
        SSL_CTX_use_PrivateKey_file(context.get(), key.c_str(), SSL_FILETYPE_PEM) != 1)
        throw std::runtime_error(chain + " and " + key + " are no certificate and its key");
    asyncio::server server = co_await start(*context, port);
    std::printf("echo over TLS on 127.0.0.1:%d, Ctrl-C ends it\n", server.port());
    std::fflush(stdout);
    co_await server.serve_forever();
}

int main(int argc, char** argv) {
    const std::string word = argc > 1 ? argv[1] : "";
    const int port = argc > 2 ? std::atoi(argv[2]) : 0;
    if (argc == 1) return asyncio::run_main(try_it(16 * 1024 * 1024));
    if (argc == 2 && word == "--quick") return asyncio::run_main(try_it(4 * 1024 * 1024));
    if (argc == 5 && word == "--port") return asyncio::run_main(serve(port, argv[3], argv[4]));
    if (argc == 3 && port > 0 && port < 65536) return asyncio::run_main(show_head(word, port));
    std::fputs("Talks over TLS, and checks certificates.\n"
               "usage: tls [--quick | HOST PORT | --port N CERTIFICATE KEY]\n",
               word == "--help" ? stdout : stderr);
    return word == "--help" ? 0 : 2;
}
// Output:
//  2.77 s  holds:  there and back: hello
//  8.13 s  holds:  16777216 bytes there and back
//  8.20 s  holds:  asked for by another name: TLS: hostname mismatch
//  8.27 s  holds:  by one who does not know the certificate: TLS: self-signed certificate
//  8.27 s  holds:  without TLS there is no echo
