"""Sources of the claims: the result that states a claim, by its name, or that it was derived or tried out here."""

# What this library adds: an argument of a few lines that stands beside the code, or an experiment nobody else reports.
OWN_DERIVATION = "own derivation"
OWN_EXPERIMENT = "own experiment"

# Linear models.
LEAST_SQUARES = "classical fact of least squares: gradients lie in the row space of the design matrix"
ADAPTIVE = "Wilson, Roelofs, Stern, Srebro, Recht (NeurIPS 2017): adaptive methods leave the row space"

# Matrix factorization.
SINGULAR_VALUE_LAW = "Arora, Cohen, Hu, Luo (NeurIPS 2019), theorem on the evolution of singular values"
SINGULAR_VALUE_CHANGE = "classical perturbation theory of singular values, and the chain rule"
MATRIX_CONSERVATION = "Arora, Cohen, Hazan (ICML 2018), conservation of balancedness"
LAMBDA_BALANCE = "Tarmoun, Franca, Haeffele, Vidal (ICML 2021), flow from lambda-balanced factors"
ONE_AT_A_TIME = "Arora, Cohen, Hu, Luo (NeurIPS 2019), experiments on the dynamics of singular values"
DEPTH = "Arora, Cohen, Hu, Luo (NeurIPS 2019), experiments on matrix completion at several depths"
DUALITY = "weak duality of nuclear and spectral norm"
CONJECTURE = "Gunasekar, Woodworth, Bhojanapalli, Neyshabur, Srebro (NeurIPS 2017), conjecture and special cases"
CONNECTIVITY = "Bai, Zhao, Zhang (NeurIPS 2024), rank and nuclear norm by the connectivity of observed entries"
NORMS = "Razin and Cohen (NeurIPS 2020), theorem on norms and rank in the 2 x 2 example"
NORMS_PERTURBED = "Razin and Cohen (NeurIPS 2020), perturbations of the 2 x 2 example"
NORMS_LARGER = "Razin and Cohen (NeurIPS 2020), extension of the example to larger matrices"
SPECTRAL = "Jordan et al. (Muon, 2024) for the optimizer; own experiment for its order of learning"

# Tensor factorization.
COMPONENT_LAW = "Razin, Maman, Cohen (ICML 2021), theorem on the evolution of component norms"
UNBALANCED_LAW = "Razin, Maman, Cohen (ICML 2021), bounds on the evolution of unbalanced components"
TENSOR_CONSERVATION = "Razin, Maman, Cohen (ICML 2021), conservation of unbalancedness"
TENSOR_DYNAMICS = "Razin, Maman, Cohen (ICML 2021), experiments on the dynamics of component norms"
RANK_ONE = "Razin, Maman, Cohen (ICML 2021), theorem on balanced rank one trajectories"
TENSOR_COMPLETION = "Razin and Cohen (NeurIPS 2020), experiments on tensor completion"
NATURAL_IMAGES = "Razin, Maman, Cohen (ICML 2021), figure on natural data"

# Hierarchical tensor factorization.
LOCAL_COMPONENT_LAW = "Razin, Maman, Cohen (ICML 2022), theorem on the evolution of local component norms"
LOCAL_CONSERVATION = "Razin, Maman, Cohen (ICML 2022), conservation of unbalancedness"
HIERARCHICAL_DYNAMICS = "Razin, Maman, Cohen (ICML 2022), experiments on the dynamics of hierarchical rank"
PRUNING = "Razin, Maman, Cohen (ICML 2022), theorem on pruning local components"
CIRCUITS = "Cohen, Sharir, Shashua (COLT 2016), convolutional arithmetic circuits compute tensor factorizations"
SEPARATION = "Cohen and Shashua (ICLR 2017), separation ranks are ranks of matricizations"
MINIMAL_CUT = "Levine, Yakira, Cohen, Shashua (ICLR 2018), ranks of matricizations by minimal cuts"
LOCALITY = "Razin, Maman, Cohen (ICML 2022), equivalence of hierarchical rank and long-range dependence"
COUNTERING_LOCALITY = "Razin, Maman, Cohen (ICML 2022), experiments on countering locality"
ENTANGLEMENT = "Alexander, De La Vega, Razin, Cohen (NeurIPS 2023), entanglement of data and feature arrangement"
ENTROPY = "classical fact: an entropy is at most the logarithm of the rank"

# Layers.
AUTOENCODER = "Jing, Zbontar, LeCun (NeurIPS 2020), implicit rank-minimizing autoencoder"
SIMPLICITY = "Huh, Mobahi, Zhang, Cheung, Agrawal, Isola (TMLR 2023), low-rank simplicity bias"
EXPANSION = "Guo, Alvarez, Salzmann (NeurIPS 2020), expansion and contraction of layers"
COMPRESSION = "Li, Sun, Su, Suzuki, Huang (AISTATS 2020), compression measure"

# Beyond the talk.
VOLUME = "Alexander, Slutzky, Ran-Milo, Cohen (NeurIPS 2025), guess and check by width and depth"
SUBSET = "Au and Beck (Probabilistic Engineering Mechanics 2001), subset simulation; classical closed forms"
STATE_SPACE = "Slutzky, Alexander, Razin, Cohen (2024), experiments with state space models and special sequences"
HANKEL = "Kronecker (1881), the rank of a Hankel matrix"
GREEDY = "Li, Luo, Lyu (ICLR 2021), equivalence of gradient flow and greedy low-rank learning"
BEST_APPROXIMATION = "Eckart and Young (1936), the best approximation of a matrix by one of lower rank"
GRADUAL_RANK = "Boix-Adsera, Littwin, Abbe, Bengio, Susskind (NeurIPS 2023), gradual rank increase of transformers"
ATTENTION_DECAY = "Kobayashi, Akram, von Oswald (NeurIPS 2024), weight decay induces low-rank attention layers"
GROKKING = "Power, Burda, Edwards, Babuschkin, Misra (2022), generalization long after the training set is learned"
NUCLEAR_GAP = "Srebro, Rennie, Jaakkola (NeurIPS 2004), the nuclear norm as a minimum over factors"
WEIGHT_DECAY = "Galanti, Siegel, Gupte, Poggio (CPAL 2025), experiments on batch size, learning rate and weight decay"
WEIGHT_MEMORY = "Galanti, Siegel, Gupte, Poggio (CPAL 2025), theorem on the rank of weights under SGD with weight decay"
WALK_INDEX = "Razin, Verbin, Cohen (NeurIPS 2023), separation rank of graph networks and walk index"
