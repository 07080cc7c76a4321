// The page's conductor: the machine's state, tabs, buttons.  Screen, serial ports and sound have their own files.

import { openScreen } from "./screen.js";
import { openSerial } from "./serial.js";
import { openSound } from "./sound.js";

const $ = (id) => document.getElementById(id);
const RETRY_MS = 1500;
const TOAST_MS = 5000;
const HINT_MS = 5000;
const KINDS = { cdrom: "CD", floppy: "Diskette" };

let state = null;
let control = null;
let sound = null;
const screen = openScreen($("screen"), {
    lost: () => veil("The connection is lost. Trying again …"),
    found: () => { if (!state?.paused) veil(null); },
    hint: showHint,
    pointer: (message) => control?.readyState === WebSocket.OPEN && control.send(JSON.stringify(message)),
});
const serials = new Map();

// --- the machine's state ---

function follow() {
    control = new WebSocket(`${location.origin.replace("http", "ws")}/socket/control`);
    control.onmessage = (event) => show(JSON.parse(event.data));
    control.onclose = () => {
        $("light").className = "gone";
        veil("The machine has ended, or cannot be reached.");
        setTimeout(follow, RETRY_MS);
    };
}

function show(news) {
    const first = state === null;
    state = news;
    document.title = `${state.name} – Ring3`;
    $("name").textContent = state.name;
    $("light").className = state.paused ? "paused" : "running";
    $("pause").title = state.paused ? "Let it run on" : "Pause";
    $("pause").querySelector("use").setAttribute("href", state.paused ? "#i-play" : "#i-pause");
    veil(state.paused ? "Paused" : null);
    $("layout").textContent = state.layout;
    $("sound").disabled = !state.sound;
    $("media").disabled = state.view_only || !Object.keys(state.drives).length;
    for (const id of ["cad", "paste", "pause", "power"]) $(id).disabled = state.view_only;
    screen.setPointer(state.absolute, state.view_only);
    showDrives();
    if (first) addSerialTabs();
}

async function act(verb, body = {}) {
    const answer = await fetch(`/do/${verb}`, { method: "POST", body: JSON.stringify(body) });
    if (answer.ok) show(await answer.json());
    else toast(await answer.text());
}

function veil(text) {
    $("veil-text").textContent = text ?? "";
    $("veil").hidden = !text;
}

let hintTimer = 0;
function showHint(text) {
    $("hint").textContent = text ?? "";
    $("hint").hidden = !text;
    clearTimeout(hintTimer);
    hintTimer = setTimeout(() => { $("hint").hidden = true; }, HINT_MS);
}

let toastTimer = 0;
function toast(text) {
    $("toast").textContent = text;
    $("toast").hidden = false;
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => { $("toast").hidden = true; }, TOAST_MS);
}

// --- tabs ---

function addSerialTabs() {
    for (let port = 1; port <= state.serial; port += 1) {
        const tab = document.createElement("button");
        tab.textContent = `COM${port}`;
        tab.dataset.tab = `serial-${port}`;
        tab.role = "tab";
        $("tabs").append(tab);
        const view = document.createElement("section");
        view.id = `serial-${port}`;
        view.className = "view serial";
        view.role = "tabpanel";
        $("views").prepend(view);
    }
}

async function choose(name) {
    for (const tab of $("tabs").children) tab.setAttribute("aria-selected", String(tab.dataset.tab === name));
    for (const view of document.querySelectorAll(".view")) view.classList.toggle("shown", view.id === name);
    for (const part of document.querySelectorAll("[data-screen]")) part.hidden = name !== "screen";
    if (name === "screen") {
        screen.focus();
        return;
    }
    if (!serials.has(name)) serials.set(name, await openSerial($(name), Number(name.split("-")[1])));
    serials.get(name).focus();
}

$("tabs").addEventListener("click", (event) => event.target.dataset.tab && choose(event.target.dataset.tab));

// --- buttons ---

// The screen keeps the keyboard while buttons are clicked.
$("bar").addEventListener("mousedown", (event) => event.preventDefault());

$("cad").onclick = () => act("press", { keys: "ctrl-alt-del" });
$("pause").onclick = () => act(state.paused ? "resume" : "pause");
$("full").onclick = () => document.documentElement.requestFullscreen();
$("scale").onclick = () => {
    const scaled = $("scale").getAttribute("aria-pressed") !== "true";
    $("scale").setAttribute("aria-pressed", String(scaled));
    screen.scale(scaled);
};

$("screenshot").onclick = async () => {
    const answer = await fetch("/screenshot.png");
    if (!answer.ok) {
        toast(await answer.text());
        return;
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `${state.name}-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.png`;
    link.click();
    URL.revokeObjectURL(link.href);
};

$("sound").onclick = async () => {
    if (sound) {
        sound.close();
        sound = null;
    } else {
        sound = await openSound();
    }
    $("sound").setAttribute("aria-pressed", String(Boolean(sound)));
    $("sound").querySelector("use").setAttribute("href", sound ? "#i-sound" : "#i-mute");
};

$("paste").onclick = async () => {
    $("paste-text").value = "";
    if (await ask($("paste-dialog"))) await act("type", { text: $("paste-text").value });
    screen.focus();
};

$("power").onclick = () => $("power-menu").togglePopover();
$("media").onclick = () => $("media-menu").togglePopover();

$("power-menu").addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    $("power-menu").hidePopover();
    $("confirm-text").textContent = button.dataset.confirm ?? "";
    if (!button.dataset.confirm || await ask($("confirm-dialog"))) await act(button.dataset.do);
    screen.focus();
});

// Opens a dialog; whether it was left by its main button.
function ask(dialog) {
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((done) => {
        dialog.addEventListener("close", () => done(dialog.returnValue === "ok"), { once: true });
    });
}

// --- media ---

function showDrives() {
    const rows = Object.entries(state.drives).map(([drive, medium]) => {
        const row = document.createElement("div");
        row.className = "drive";
        const text = document.createElement("span");
        text.textContent = driveName(drive);
        const what = document.createElement("small");
        what.textContent = medium ?? "empty";
        what.title = medium ?? "";
        text.append(what);
        row.append(text, driveButton("Insert …", () => insert(drive)));
        if (medium !== null) row.append(driveButton("Eject", () => act("eject", { drive })));
        return row;
    });
    $("media-menu").replaceChildren(...rows);
}

function driveName(drive) {
    const [, kind, number] = drive.match(/^([a-z]+)(\d*)$/) ?? [null, drive, ""];
    return `${KINDS[kind] ?? drive}${number && number !== "0" ? ` ${Number(number) + 1}` : ""}`;
}

function driveButton(text, click) {
    const button = document.createElement("button");
    button.textContent = text;
    button.onclick = () => {
        $("media-menu").hidePopover();
        click();
    };
    return button;
}

async function insert(drive) {
    $("insert-drive").textContent = driveName(drive);
    if (await ask($("insert-dialog")) && $("insert-path").value)
        await act("insert", { drive, path: $("insert-path").value });
    screen.focus();
}

choose("screen");
follow();
