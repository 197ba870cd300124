"""kdcourse: the code of the course, in storeys; each imports only from below.

4  book, exercises, solutions                           what people touch
3  plotting, widgets, grading, experiments,             what is shown and judged
   conventions, doctor with stand_in                    other libraries' words; your own training step
2  training                                             one loop, any loss
1  data, models, networks, attention, chunks            what is trained, on what, and where it is kept
0  softmax, losses, schedules, metrics, calibration     the mathematics; start here, in this order;
   methods                                              then what goes beyond it, one idea a file
"""
