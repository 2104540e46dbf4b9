"""Studies: the same training at several points and over several seeds, and a page that compares them.

A study is a YAML file (`configs/study/`). Each of its runs is one `drb train` in a directory of its own below the
study's folder, so a study that was stopped goes on where it was: a run that has its `summary.json` is not done again.

    definition  what a study is: its points, their settings, and the runs that follow from them
    results     what a study's folder holds so far; checks refuses what is not the study's
    launch      starts runs here, by torchrun or mpirun
    slurm, queue    or as jobs of Slurm
    tracked     the study's own run in MLflow, below which its runs are nested
    statistics  mean, standard deviation and n over the seeds of a point
    quality     how long a run trains until it is as good as the study's target
    table, plots, page, sheet    what a study ends with; drawing and scaling_plot are parts of plots
    command, options    `drb study`
"""
