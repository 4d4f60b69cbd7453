/* The header in a second unit, twice. */
#include <hyc.h>
#include <hyc.h>

const char *second_version(void);

const char *second_version(void) { return hyc_version(); }
