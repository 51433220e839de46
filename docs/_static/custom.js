// What scrolls can be reached, and scrolled, by the keyboard.
addEventListener("load", () => {
    for (const box of document.querySelectorAll(".table-wrapper, pre, .cell_output")) {
        if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    }
});
