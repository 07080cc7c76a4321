// The machine's screen: noVNC in an element, connected again whenever the connection is lost.
//
// A guest that knows no positions (a plain PS/2 mouse) gets movements instead: a click captures the mouse
// (Pointer Lock), and noVNC sees none of its events until Escape lets it go.

import RFB from "/novnc/core/rfb.js";

const RETRY_MS = 1500;
const BUTTONS = [1, 4, 2, 8, 16];           // by MouseEvent.button: left, middle, right, back, forward

export function openScreen(element, { lost, found, hint, pointer }) {
    let rfb = null;
    let scaled = true;
    let absolute = true;
    let viewOnly = false;
    let held = 0;

    function connect() {
        rfb = new RFB(element, `${location.origin.replace("http", "ws")}/socket/screen`,
            { shared: true, wsProtocols: ["binary"] });
        rfb.background = "transparent";
        rfb.showDotCursor = false;
        rfb.addEventListener("connect", () => {
            apply();
            rfb.focus();
            found();
        });
        rfb.addEventListener("disconnect", () => {
            lost();
            setTimeout(connect, RETRY_MS);
        });
    }

    function apply() {
        rfb.scaleViewport = scaled;
        rfb.clipViewport = !scaled;
        rfb.dragViewport = false;
        rfb.viewOnly = viewOnly;
        element.classList.toggle("exact", !scaled);
    }

    // --- the captured mouse ---

    const captured = () => document.pointerLockElement === element;

    function take(event) {
        if (absolute || viewOnly) return;
        if (!captured()) {
            if (event.type === "mousedown") element.requestPointerLock();
        } else if (event.type === "mousemove") {
            if (event.movementX || event.movementY) pointer({ by: [event.movementX, event.movementY] });
        } else if (event.type === "wheel") {
            pointer({ wheel: Math.sign(event.deltaY) });
        } else {
            const bit = BUTTONS[event.button] ?? 0;
            held = event.type === "mousedown" ? held | bit : held & ~bit;
            pointer({ buttons: held });
        }
        event.stopImmediatePropagation();
        event.preventDefault();
    }

    for (const type of ["mousemove", "mousedown", "mouseup", "wheel", "contextmenu", "click"])
        element.addEventListener(type, take, { capture: true, passive: false });

    function tell() {
        if (absolute || viewOnly) hint(null);
        else hint(captured() ? "Escape releases the mouse" : "Click to give the machine the mouse");
    }

    element.addEventListener("mouseenter", tell);
    document.addEventListener("pointerlockchange", () => {
        if (!captured() && held) pointer({ buttons: held = 0 });
        tell();
        rfb?.focus();
    });

    connect();
    return {
        focus: () => rfb?.focus(),
        scale: (wanted) => {
            scaled = wanted;
            apply();
        },
        setPointer: (isAbsolute, isViewOnly) => {
            if (isAbsolute === absolute && isViewOnly === viewOnly) return;
            absolute = isAbsolute;
            viewOnly = isViewOnly;
            if (absolute && captured()) document.exitPointerLock();
            if (rfb) rfb.viewOnly = viewOnly;
            tell();
        },
    };
}
