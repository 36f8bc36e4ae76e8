/*
 * at_exit.c: a shared library whose destructor calls what the program has asked for; exit.c loads it. It is loaded last,
 * so its destructor runs when those of the libraries that were there before have run.
 */
void (*plugin_at_exit)(void);

__attribute__((destructor)) static void call(void) {
    if (plugin_at_exit) plugin_at_exit();
}
