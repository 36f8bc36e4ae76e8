/* Prints the process's mappings: which malloc it has. */

#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    char line[4096], *volatile block = malloc(100);
    FILE *maps = fopen("/proc/self/maps", "r");
    if (!block || !maps) {
        return 1;
    }
    free(block);
    while (fgets(line, sizeof line, maps)) {
        fputs(line, stdout);
    }
    return fclose(maps);
}
