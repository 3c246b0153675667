// CPU-bound work: ten JSON documents are fetched, parsed, classified and stored.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/document_inference.cpp -o documents && ./documents
//
// What it teaches: every stage runs where it belongs. Fetching only waits: on the loop, three at
// once. Parsing is over in a moment: on the loop, too. Inference computes: on two worker processes.
// Storing blocks on the disk: on a thread. The stage with the most to do for each of its places is
// the bottleneck: it decides how many documents a second the whole can do.
// Look at: the stages' busy times. With the large model the inference is the bottleneck; with a
// small one it is the fetching. --quick takes smaller models; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <bit>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return std::chrono::duration<double>(asyncio::elapsed()).count(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string figure(double value) { // with two decimals
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", value);
    return text;
}

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

const std::map<std::string, std::vector<std::string>> topics = {
    {"culture", {"museum", "painting", "concert", "theatre", "music", "artist", "stage", "novel"}},
    {"sports", {"football", "team", "goal", "match", "player", "coach", "league", "season"}},
    {"weather", {"rain", "sun", "wind", "snow", "storm", "cloud", "cold", "forecast"}},
};

// What the service has: thirty words of one topic and ten of any.
std::string document(const std::string& topic, unsigned id) {
    std::mt19937 random(id);
    std::string text;
    for (int i = 0; i < 40; ++i) {
        const auto any = std::next(topics.begin(), random() % 3);
        const std::vector<std::string>& words = i % 4 == 0 ? any->second : topics.at(topic);
        text += words[random() % words.size()] + ' ';
    }
    std::ostringstream json;
    json << "{\"id\": " << id << ", \"topic\": " << std::quoted(topic)
         << ", \"text\": " << std::quoted(text) << "}";
    return json.str();
}

// A JSON object of strings and numbers, which are all kept as text.
std::map<std::string, std::string> parse_json(const std::string& json) {
    std::istringstream in(json);
    std::map<std::string, std::string> fields;
    char mark = 0;
    for (in >> mark; in && (mark == '{' || mark == ','); in >> mark) {
        std::string name, value;
        in >> std::quoted(name) >> mark >> std::ws;
        if (in.peek() == '"') in >> std::quoted(value);
        else
            while (std::isdigit(in.peek())) value += static_cast<char>(in.get());
        fields[name] = value;
    }
    if (mark != '}') throw std::runtime_error("not the JSON that we expect: " + json);
    return fields;
}

// The inference, in a worker process: which topic has most in common with the text? Each word
// gives 64 random signs, and the signs of their sums are the text's embedding: the more bits two
// of them share, the closer the texts. The model's size is how often that is done.
std::uint64_t embed(const std::vector<std::string>& words, int round) {
    int sums[64] = {};
    for (const std::string& word : words) {
        std::uint64_t signs = static_cast<std::uint64_t>(round);
        for (const char c : word)
            signs = (signs ^ static_cast<unsigned char>(c)) * 0x9e3779b97f4a7c15U;
        signs ^= signs >> 29;
        for (int bit = 0; bit < 64; ++bit) sums[bit] += (signs >> bit & 1U) != 0 ? 1 : -1;
    }
    std::uint64_t embedding = 0;
    for (int bit = 0; bit < 64; ++bit) embedding |= (sums[bit] > 0 ? 1ULL : 0ULL) << bit;
    return embedding;
}

struct guess {
    std::string topic;
    double took = 0; // seconds, in the worker
};
guess infer(const std::string& text, int model_size) {
    const auto began = std::chrono::steady_clock::now();
    std::istringstream in(text);
    const std::vector<std::string> words(std::istream_iterator<std::string>(in), {});
    std::map<int, std::string> by_likeness;
    for (const auto& [topic, examples] : topics) {
        int same = 0;
        for (int round = 0; round < model_size; ++round)
            same += std::popcount(~(embed(words, round) ^ embed(examples, round)));
        by_likeness[same] = topic;
    }
    const auto took = std::chrono::steady_clock::now() - began;
    return {by_likeness.rbegin()->second, std::chrono::duration<double>(took).count()};
}

void store(std::filesystem::path file_name, std::string text) { // on a thread
    std::ofstream file(file_name);
    if (!(file << text).flush()) throw std::runtime_error("cannot write " + file_name.string());
}

struct stage {
    std::string name;
    double places;   // how many documents it can work on at once
    double busy = 0; // seconds, of all places together
};

struct pipeline {
    asyncio::process_pool_executor& pool;
    std::filesystem::path folder;
    asyncio::duration latency;
    int model_size;
    asyncio::semaphore connections{3};
    stage stages[4] = {{"fetch", 3}, {"parse", 1}, {"infer", 2}, {"store", 1}};
    int right = 0; // documents whose topic was found
};

asyncio::coro<> handle(pipeline& p, unsigned id) {
    asyncio::current_task().set_name("document " + std::to_string(id)); // for the timeline
    std::string json;
    {
        auto connection = co_await p.connections.scoped();
        const double began = seconds();
        co_await asyncio::sleep(p.latency); // stands for a request over the network
        json = document(std::next(topics.begin(), id % 3)->first, id);
        p.stages[0].busy += seconds() - began;
    }
    double began = seconds();
    std::map<std::string, std::string> fields = parse_json(json);
    p.stages[1].busy += seconds() - began;

    const guess found =
        co_await asyncio::run_in_executor(p.pool, infer, fields["text"], p.model_size);
    p.stages[2].busy += found.took;
    p.right += found.topic == fields["topic"] ? 1 : 0;

    began = seconds();
    co_await asyncio::to_thread(store, p.folder / fields["id"], found.topic);
    p.stages[3].busy += seconds() - began;
}

asyncio::coro<> run(pipeline p, std::string expected, double least, std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());
    constexpr int documents = 10;
    const double began = seconds();
    std::vector<asyncio::coro<>> all;
    for (unsigned id = 0; id < documents; ++id) all.push_back(handle(p, id));
    co_await asyncio::gather(std::move(all));
    const double took = seconds() - began;
    trace.print_timeline(std::cout);

    const stage* bottleneck = p.stages;
    for (const stage& s : p.stages) {
        std::printf("%s: busy for %.3f s in %.0f places, %.3f s each\n", s.name.c_str(), s.busy, s.places, s.busy / s.places);
        if (s.busy / s.places > bottleneck->busy / bottleneck->places) bottleneck = &s;
    }
    ...
}
