"""Run all benchmarks, one after the other, on an otherwise idle machine."""

from benchmarks import aggregate, analysis, background, dag, fractions, ipa, overhead, sampling, serving

if __name__ == "__main__":
    serving.main()
    sampling.main()
    overhead.main()
    ipa.main()
    analysis.main()
    dag.main()
    aggregate.main()
    background.main()
    fractions.main()
