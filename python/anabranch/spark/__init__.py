"""The batch arm under Spark: the engine brings the shuffle, the wheel everything that has a meaning.

| module | what lives there |
|---|---|
| `etl` | map, fold and the writers of `EtlPlan` inside `mapInArrow`, with Spark's shuffles between them |
| `rows` | histories to training rows, numbered and cut into blocks of users and of items |
| `sharing` | how a task reads the other side's factors: a broadcast, or a file that its executor maps |
| `ials` | the iterations, their checkpoints, what a snapshot is made of |
| `neighbours` | item neighbours, from files of users' rows that executors map |
| `lists` | lists for every user, and embeddings as files |

It promises: the same bits as the local commands, whatever the partitions; a task that runs twice leaves what it left
the first time. It holds no arithmetic of its own: no rule of the ETL and no step of training is written here a second time.
Imported by `scripts/glue_job.py`; needs pyspark, which the package itself does not.
"""
