/* The marks as functions, for a program in Python. */
#include "marks.h"

void start_counting(void) { START_COUNTING(); }
void stop_counting(void) { STOP_COUNTING(); }
