// CPU-bound work: ten JSON documents are fetched, parsed, classified and stored.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/document_inference.cpp -o documents && ./documents
//
// What it teaches: each stage runs where it belongs. Fetching only waits: on the loop. Parsing is
// over in a moment: on the loop, too. Classifying computes: on worker processes. Storing waits for
// the disk: on a thread. The stage with the most to do for each of its places is the bottleneck.
// Look at: the timeline (# is a job on a worker), and how busy the stages are. --quick does less.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

using words = std::vector<std::string>;
const std::pair<std::string, words> topics[] = {
    {"culture", {"museum", "painting", "concert", "theatre", "music", "artist", "stage", "novel"}},
    {"sports", {"football", "team", "goal", "match", "player", "coach", "league", "season"}},
    {"weather", {"rain", "sun", "wind", "snow", "storm", "cloud", "cold", "forecast"}}};

// Fetch, on the loop: the document has 35 words of its topic, and five of any.
asyncio::coro<std::string> fetch(unsigned id, asyncio::duration latency) {
    co_await asyncio::sleep(latency); // stands for a request over the network
    std::minstd_rand random(id + 1);  // the same numbers on every machine
    std::string list;
    for (int i = 0; i < 40; ++i) {
        const words& some = topics[(i % 8 == 0 ? random() : id) % 3].second;
        list += (i == 0 ? "\"" : ", \"") + some[random() % 8] + '"';
    }
    co_return "{\"id\": " + std::to_string(id) + ", \"words\": [" + list + "]}";
}

// Parse, on the loop: the JSON array of strings that the document contains.
asyncio::coro<words> parse(std::string json) {
    std::istringstream in(json.substr(json.find('[')));
    in.exceptions(std::ios::failbit); // it throws when something else comes
    words all;
    for (char mark = 0; in >> mark && mark != ']';) in >> std::quoted(all.emplace_back());
    co_return all;
}

// Infer, in a worker process. Two texts have the same least hash the more often, the more words
// they share (MinHash). The size of the model is how many different hashes it compares.
std::size_t least_hash(const words& text, int round) {
    std::size_t least = ~std::size_t{0};
    for (const std::string& word : text)
        least = std::min(least, std::hash<std::string>()(std::to_string(round) + word));
    return least;
}

std::string classify(const words& text, int model_size) {
    std::pair<int, std::string> best; // so many equal hashes, and the topic
    for (const auto& [topic, examples] : topics) {
        int same = 0;
        for (int round = 0; round < model_size; ++round)
            same += least_hash(text, round) == least_hash(examples, round) ? 1 : 0;
        best = std::max(best, std::pair(same, topic));
    }
    return best.second;
}

asyncio::coro<std::string> infer(asyncio::executor& pool, words text, int model_size) {
    co_return co_await asyncio::run_in_executor(pool, classify, std::move(text), model_size);
}

struct stage {
    const char* name;
    int places;
    asyncio::semaphore free{places};
    double busy = 0; // seconds, of all places together
} stages[] = {{"fetch", 3}, {"parse", 1}, {"infer", 2}, {"store", 1}};

template <class T>
asyncio::coro<T> pass(stage& through, asyncio::coro<T> work) {
    auto place = co_await through.free.scoped();
    through.busy -= seconds();
    auto result = co_await asyncio::as_outcome(std::move(work)); // its value or its error
    through.busy += seconds();
    co_return std::move(result).value();
}

asyncio::coro<int> async_main(bool quick) {
    asyncio::process_pool_executor pool(stages[2].places);
    int model = 50; // grows until a document takes as much time of a core as we want
    for (double took = 0; took < (quick ? 0.04 : 0.2); model += model / 8) {
        const double began = cpu_seconds();
        if (!classify(words(40, "sample"), model).empty()) took = cpu_seconds() - began;
    }

    const std::string name = "topic." + std::to_string(std::random_device()()) + '.';
    const std::string file = (std::filesystem::temp_directory_path() / name).string();
    // The captures are in the lambda, not in its coroutines: it stays until the group has ended.
    const auto handle = [&](unsigned id) -> asyncio::coro<> {
        asyncio::current_task().set_name("document " + std::to_string(id)); // for the timeline
        std::string json = co_await pass(stages[0], fetch(id, quick ? 20ms : 100ms));
        words text = co_await pass(stages[1], parse(std::move(json)));
        std::string topic = co_await pass(stages[2], infer(pool, std::move(text), model));
        co_await pass(stages[3], asyncio::write_file(file + std::to_string(id), topic));
    };
    asyncio::tracer trace(asyncio::get_running_loop());
    const double began = seconds();
    const auto all_documents = [&](asyncio::task_group& group) {
        for (unsigned id = 0; id < 10; ++id) group.create_task(handle(id));
    };
    co_await asyncio::with(asyncio::task_group(), all_documents);
    const double took = seconds() - began;
    trace.print_timeline(std::cout);

    std::pair<double, std::string> most; // how busy the bottleneck is (1: always), and its name
    for (const stage& s : stages) {
        const double busy = s.busy / s.places / took;
        std::printf("%s: %d at once, busy %3.0f %% of the time\n", s.name, s.places, 100 * busy);
        most = std::max(most, std::pair(busy, std::string(s.name)));
    }
    int right = 0;
    for (unsigned id = 0; id < 10; ++id) {
        const std::string topic = co_await asyncio::read_file(file + std::to_string(id));
        right += topic == topics[id % 3].first ? 1 : 0;
        std::filesystem::remove(file + std::to_string(id));
    }
    claim(right == 10, std::to_string(right) + " of 10 documents are stored with their topic");
    claim(most.second == "infer" && most.first > 0.6, "the bottleneck is " + most.second + ": " +
          num(10 / took) + " documents a second, and it can do " + num(10 / took / most.first));
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    const std::string option = argc == 2 ? argv[1] : "";
    if (argc == 1 || option == "--quick") return asyncio::run_main(async_main(option == "--quick"));
    std::fputs("Ten documents: fetch, parse, infer, store.\nusage: documents [--quick]\n",
               option == "--help" ? stdout : stderr);
    return option == "--help" ? 0 : 2;
}
// Output:
// time       |0                                                    1.410 s|
// Task-1     |============================================================| 0.000-1.410 s
// document 0 |====############                                            | 0.000-0.368 s
// document 1 |====############                                            | 0.000-0.355 s
// document 2 |===============############                                 | 0.000-0.615 s
// document 3 |===============############                                 | 0.000-0.634 s
// document 4 |==========================############                      | 0.000-0.885 s
// document 5 |==========================############                      | 0.000-0.885 s
// document 6 |=====================================############           | 0.000-1.143 s
// document 7 |=====================================#############          | 0.000-1.159 s
// document 8 |================================================############| 0.000-1.404 s
// document 9 |=================================================###########| 0.000-1.410 s
// fetch: 3 at once, busy  24 % of the time
// parse: 1 at once, busy   0 % of the time
// infer: 2 at once, busy  92 % of the time
// store: 1 at once, busy   0 % of the time
// holds:  10 of 10 documents are stored with their topic
// holds:  the bottleneck is infer: 7.09 documents a second, and it can do 7.66
