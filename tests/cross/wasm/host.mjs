// Runs loop.wasm in the event loop of JavaScript, and checks what it says and how often it had to
// be asked.
//
//     node host.mjs loop.wasm
import { readFile } from "node:fs/promises";
import { WASI } from "node:wasi";

const wasi = new WASI({ version: "preview1" });
const said = [];
let polls = 0;
let ended = false;
let exports;

const text = (address) => {
    const bytes = new Uint8Array(exports.memory.buffer, address);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
};
const host = {
    now_ms: () => performance.now(),
    say: (address) => {
        said.push(text(address));
        console.log(`${performance.now().toFixed(0)} ms  ${said.at(-1)}`);
        if (said.at(-1) === "press") setTimeout(press, 10);
    },
    ended: () => { ended = true; },
};

// One frame, and the next one when something is due.
function frame() {
    ++polls;
    exports.poll();
    if (ended) return finish();
    const ms = exports.next_deadline_ms();
    if (ms >= 0) setTimeout(frame, Math.ceil(ms));
}
function press() {
    exports.press();
    frame();
}

function finish() {
    const wanted = ["number 1", "number 2", "number 3", "late", "press", "pressed"];
    const right = JSON.stringify(said) === JSON.stringify(wanted);
    // A timer of setTimeout may be early by less than a millisecond; then one more frame follows.
    const idle = polls <= 20;
    console.log(`${right && idle ? "ok" : "FAILED"}: ${polls} polls`);
    process.exitCode = right && idle ? 0 : 1;
}

const module = await WebAssembly.compile(await readFile(process.argv[2]));
const instance = await WebAssembly.instantiate(module, { ...wasi.getImportObject(), host });
exports = instance.exports;
wasi.initialize(instance);
process.exitCode = 1; // unless it comes to its end
exports.start();
frame();
