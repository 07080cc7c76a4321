"""The machine in a browser: screen (noVNC), serial ports (xterm.js), sound, power, media.

    server.py    HTTP and WebSockets (aiohttp), behind a token
    sockets.py   what is carried by a WebSocket: the screen, a serial port, sound
    assets.py    where noVNC and xterm.js are
    page/        our page; served as it stands, as are noVNC and xterm.js
"""
