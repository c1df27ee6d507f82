"""FederatedScope's keys that the schema does not have, with FederatedScope's defaults, by section.

A file that writes out such a key with its default asks for nothing (FederatedScope itself writes out its whole
tree), so the defaults must be known where FederatedScope is not installed. A test compares them with the real tree.
What each key means to our runs is in :mod:`fs_fedmllm.config.host_keys`.
"""

from __future__ import annotations

from typing import Any

# fmt: off
_SECTIONS: dict[str, dict[str, Any]] = {
    "": {
        "check_completeness": False, "verbose": 1, "print_decimal_digits": 6, "cfg_file": "", "expname_tag": "",
    },
    "aggregator": {
        "robust_rule": "fedavg", "byzantine_node_num": 0, "num_agg_groups": 1, "num_agg_topk": [],
        "inside_weight": 1.0, "outside_weight": 0.0,
    },
    "asyn": {
        "use": False, "time_budget": 0, "min_received_num": 2, "min_received_rate": -1.0, "staleness_toleration": 0,
        "staleness_discount_factor": 1.0, "aggregator": "goal_achieved", "broadcast_manner": "after_aggregating",
        "overselection": False,
    },
    "attack": {
        "attack_method": "", "target_label_ind": -1, "attacker_id": -1, "edge_path": "edge_data/",
        "trigger_path": "trigger/", "setting": "fix", "freq": 10, "insert_round": 100000, "mean": [0.9637],
        "std": [0.1592], "trigger_type": "edge", "label_type": "dirty", "edge_num": 100, "poison_ratio": 0.5,
        "scale_poisoning": False, "scale_para": 1.0, "pgd_poisoning": False, "pgd_lr": 0.1, "pgd_eps": 2,
        "self_opt": False, "self_lr": 0.05, "self_epoch": 6, "reconstruct_lr": 0.01, "reconstruct_optim": "Adam",
        "info_diff_type": "l2", "max_ite": 400, "alpha_TV": 0.001, "alpha_prop_loss": 0,
        "classifier_PIA": "randomforest", "inject_round": 0, "mia_simulate_in_round": 20,
        "mia_is_simulate_in": False,
    },
    "criterion": {
        "type": "MSELoss",
    },
    "data": {
        "save_data": False, "args": [], "server_holds_all": False, "subsample": 1.0, "splits": [0.8, 0.1, 0.1],
        "consistent_label_distribution": True, "cSBM_phi": [0.5, 0.5, 0.5], "transform": [], "target_transform": [],
        "pre_transform": [], "val_transform": [], "val_target_transform": [], "val_pre_transform": [],
        "test_transform": [], "test_target_transform": [], "test_pre_transform": [], "file_path": "",
        "quadratic.dim": 1, "quadratic.min_curv": 0.02, "quadratic.max_curv": 12.5, "hetero_data_name": [],
        "num_of_client_for_data": [], "max_seq_len": 384, "max_tgt_len": 128, "max_query_len": 128,
        "trunc_stride": 128, "cache_dir": "", "hetero_synth_batch_size": 32, "hetero_synth_prim_weight": 0.5,
        "hetero_synth_feat_dim": 128, "num_contrast": 0, "is_debug": False, "loader": "", "batch_size": 64,
        "shuffle": True, "num_workers": 0, "drop_last": False, "walk_length": 2, "num_steps": 30, "sizes": [10, 5],
    },
    "dataloader": {
        "type": "base", "batch_size": 64, "shuffle": True, "num_workers": 0, "drop_last": False, "pin_memory": False,
        "walk_length": 2, "num_steps": 30, "sizes": [10, 5], "theta": -1,
    },
    "distribute": {
        "use": False, "server_host": "0.0.0.0", "server_port": 50050, "client_host": "0.0.0.0", "client_port": 50050,
        "role": "client", "data_file": "data", "data_idx": -1, "grpc_max_send_message_length": 314572800,
        "grpc_max_receive_message_length": 314572800, "grpc_enable_http_proxy": False,
        "grpc_compression": "nocompression",
    },
    "early_stop": {
        "delta": 0.0, "improve_indicator_mode": "best",
    },
    "eval": {
        "split": ["test", "val"], "report": ["weighted_avg", "avg", "fairness", "raw"], "monitoring": [],
        "count_flops": True,
    },
    "feat_engr": {
        "type": "", "scenario": "hfl", "num_bins": 5, "selec_threshold": 0.05, "selec_woe_binning": "quantile",
        "secure.type": "encrypt", "secure.key_size": 3072, "secure.encrypt.type": "dummy",
    },
    "federate": {
        "unseen_clients_rate": 0.0, "data_weighted_aggr": False, "online_aggr": False, "use_diff": False,
        "merge_test_data": False, "merge_val_data": False, "ignore_weight": False, "use_ss": False,
        "join_in_info": [], "sampler": "uniform", "resource_info_file": "", "process_num": 1,
        "master_addr": "127.0.0.1", "master_port": 29500, "atc_vanilla": False, "atc_load_from": "",
    },
    "fedopt": {
        "use": False, "optimizer.type": "SGD", "optimizer.lr": 0.01, "annealing": False, "annealing_step_size": 2000,
        "annealing_gamma": 0.5,
    },
    "fedprox": {
        "use": False, "mu": 0.0,
    },
    "fedsageplus": {
        "num_pred": 5, "gen_hidden": 128, "hide_portion": 0.5, "fedgen_epoch": 200, "loc_epoch": 1, "a": 1.0,
        "b": 1.0, "c": 1.0,
    },
    "fedswa": {
        "use": False, "freq": 10, "start_rnd": 30,
    },
    "finetune": {
        "before_eval": False, "local_update_steps": 1, "batch_or_epoch": "epoch", "freeze_param": "",
        "optimizer.type": "SGD", "optimizer.lr": 0.1, "scheduler.type": "", "scheduler.warmup_ratio": 0.0,
        "simple_tuning": False, "epoch_linear": 10, "lr_linear": 0.005, "weight_decay": 0.0, "local_param": [],
    },
    "flitplus": {
        "tmpFed": 0.5, "lambdavat": 0.5, "factor_ema": 0.8, "weightReg": 1.0,
    },
    "gcflplus": {
        "EPS_1": 0.05, "EPS_2": 0.1, "seq_length": 5, "standardize": False,
    },
    "grad": {
        "grad_clip": -1.0, "grad_accum_count": 1,
    },
    "hpo": {
        "trial_index": 0, "working_folder": "hpo", "ss": "", "num_workers": 0, "init_cand_num": 16,
        "larger_better": False, "scheduler": "rs", "metric": "client_summarized_weighted_avg.val_loss",
        "sha.elim_rate": 3, "sha.budgets": [], "sha.iter": 0, "pbt.max_stage": 5, "pbt.perf_threshold": 0.1,
        "fedex.use": False, "fedex.ss": "", "fedex.flatten_ss": True, "fedex.eta0": -1.0, "fedex.sched": "auto",
        "fedex.cutoff": 0.0, "fedex.gamma": 0.0, "fedex.diff": False, "fedex.psn": False, "fedex.pi_lr": 0.01,
        "table.eps": 0.1, "table.num": 27, "table.idx": 0, "fts.use": False, "fts.ss": "", "fts.target_clients": [],
        "fts.diff": False, "fts.local_bo_max_iter": 50, "fts.local_bo_epochs": 50, "fts.fed_bo_max_iter": 50,
        "fts.ls": 1.0, "fts.var": 0.1, "fts.g_var": 1e-06, "fts.v_kernel": 1.0, "fts.obs_noise": 1e-06, "fts.M": 100,
        "fts.M_target": 200, "fts.gp_opt_schedule": 1, "fts.allow_load_existing_info": True, "pfedhpo.use": False,
        "pfedhpo.discrete": False, "pfedhpo.train_fl": False, "pfedhpo.train_anchor": False, "pfedhpo.ss": "",
        "pfedhpo.target_fl_total_round": 1000,
    },
    "model": {
        "model_num_per_trainer": 1, "use_bias": True, "task": "node", "hidden": 256, "dropout": 0.5,
        "in_channels": 0, "out_channels": 1, "layer": 2, "graph_pooling": "mean", "embed_size": 8, "num_item": 0,
        "num_user": 0, "input_shape": [], "lambda_": 0.1, "gamma": 0, "num_of_trees": 10, "max_tree_depth": 3,
        "stage": "", "model_type": "google/bert_uncased_L-2_H-128_A-2", "pretrain_tasks": [], "downstream_tasks": [],
        "num_labels": 1, "max_length": 200, "min_length": 1, "no_repeat_ngram_size": 3, "length_penalty": 2.0,
        "num_beams": 5, "label_smoothing": 0.1, "n_best_size": 20, "max_answer_len": 30,
        "null_score_diff_threshold": 0.0, "use_contrastive_loss": False, "contrast_topk": 100, "contrast_temp": 1.0,
    },
    "nbafl": {
        "use": False, "mu": 0.0, "epsilon": 100.0, "w_clip": 1.0, "constant": 30.0,
    },
    "personalization": {
        "local_param": [], "share_non_trainable_para": False, "local_update_steps": -1, "regular_weight": 0.1,
        "lr": 0.0, "K": 5, "beta": 1.0, "lr_feature": 0.1, "lr_linear": 0.1, "epoch_feature": 1, "epoch_linear": 2,
        "weight_decay": 0.0,
    },
    "quantization": {
        "method": "none", "nbits": 8,
    },
    "regularizer": {
        "type": "", "mu": 0.0,
    },
    "sgdmf": {
        "use": False, "R": 5.0, "epsilon": 4.0, "delta": 0.5, "constant": 1.0,
    },
    "train": {
        "data_para_dids": [], "scheduler.type": "", "scheduler.warmup_ratio": 0.0,
    },
    "trainer": {
        "sam.adaptive": False, "sam.rho": 1.0, "sam.eta": 0.0, "local_entropy.gamma": 0.03,
        "local_entropy.inc_factor": 1.0, "local_entropy.eps": 0.0001, "local_entropy.alpha": 0.75, "disp_freq": 50,
        "val_freq": 100000000,
    },
    "vertical": {
        "use": False, "mode": "feature_gathering", "dims": [5, 10], "encryption": "paillier", "key_size": 3072,
        "algo": "lr", "feature_subsample_ratio": 1.0, "protect_object": "", "protect_method": "", "protect_args": [],
        "eval_protection": "", "data_size_for_debug": 0,
    },
    "wandb": {
        "use": False, "name_user": "", "name_project": "", "online_track": True, "client_train_info": False,
    },
}
# fmt: on

#: Dotted key -> FederatedScope's default.
DEFAULTS: dict[str, Any] = {
    f"{section}.{name}".lstrip("."): value for section, keys in _SECTIONS.items() for name, value in keys.items()
}
