// A serial port: xterm.js in an element.

const RETRY_MS = 1500;

let loaded = null;

function load() {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = "/xterm/xterm/css/xterm.css";
    document.head.append(style);
    return Promise.all([import("/xterm/xterm/lib/xterm.mjs"), import("/xterm/xterm-fit/lib/addon-fit.mjs")]);
}

export async function openSerial(element, port) {
    loaded ??= load();
    const [{ Terminal }, { FitAddon }] = await loaded;
    const terminal = new Terminal({
        fontFamily: 'ui-monospace, "DejaVu Sans Mono", Menlo, monospace',
        fontSize: 14,
        scrollback: 10000,
        theme: { background: "#0b0d10", foreground: "#d8dde7", cursor: "#5fd3a2" },
    });
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    terminal.open(element);
    fit.fit();
    new ResizeObserver(() => fit.fit()).observe(element);

    let socket = null;
    const encoder = new TextEncoder();
    terminal.onData((text) => socket?.readyState === WebSocket.OPEN && socket.send(encoder.encode(text)));
    terminal.onBinary((text) => socket?.readyState === WebSocket.OPEN
        && socket.send(Uint8Array.from(text, (character) => character.charCodeAt(0))));

    function connect() {
        socket = new WebSocket(`${location.origin.replace("http", "ws")}/socket/serial/${port}`);
        socket.binaryType = "arraybuffer";
        socket.onopen = () => terminal.reset();
        socket.onmessage = (event) => terminal.write(new Uint8Array(event.data));
        socket.onclose = () => setTimeout(connect, RETRY_MS);
    }

    connect();
    return { focus: () => terminal.focus() };
}
