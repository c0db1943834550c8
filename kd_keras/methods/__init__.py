"""The methods: one published loss a file, a pure function `<name>_loss` first, then the layer that applies it."""

from kd_keras.methods.ab import AB, ab_loss
from kd_keras.methods.at import AT, at_loss
from kd_keras.methods.base import Method, Taps
from kd_keras.methods.byot import BYOT, byot_features_loss, byot_loss
from kd_keras.methods.cc import CC, CCKernel, cc_kernel_loss, cc_loss
from kd_keras.methods.crd import CRD, crd_in_batch_loss, crd_loss
from kd_keras.methods.ctkd import CTKD, ctkd_loss
from kd_keras.methods.cwd import CWD, cwd_loss
from kd_keras.methods.dense import Dense, dense_loss
from kd_keras.methods.dist import DIST, dist_loss
from kd_keras.methods.dkd import DKD, dkd_loss
from kd_keras.methods.fitnet import FitNet, fitnet_loss
from kd_keras.methods.fsp import FSP, fsp_loss
from kd_keras.methods.ft import FT, Paraphrase, ft_loss
from kd_keras.methods.kd import KD, kd_loss
from kd_keras.methods.kdsvd import KDSVD, kdsvd_loss
from kd_keras.methods.ld import LD, ld_loss
from kd_keras.methods.logits import (
    Logits,
    jensen_shannon_loss,
    logits_loss,
    logits_mse_loss,
    reverse_kl_loss,
    soft_cross_entropy_loss,
)
from kd_keras.methods.lskd import LSKD, lskd_loss, standardized
from kd_keras.methods.mgd import MGD, mgd_loss
from kd_keras.methods.mlkd import MLKD, mlkd_loss
from kd_keras.methods.nst import NST, nst_loss
from kd_keras.methods.ofd import OFD, ofd_loss
from kd_keras.methods.pkd import PKD, pkd_loss
from kd_keras.methods.pkt import PKT, pkt_loss
from kd_keras.methods.queue import Queue, queue_loss
from kd_keras.methods.reviewkd import ReviewKD, reviewkd_loss
from kd_keras.methods.rkd import RKD, rkd_angle_loss, rkd_distance_loss, rkd_loss
from kd_keras.methods.semckd import SemCKD, semckd_loss
from kd_keras.methods.simkd import SimKD, simkd_loss, simkd_student
from kd_keras.methods.sp import SP, sp_loss
from kd_keras.methods.srrl import SRRL, srrl_loss
from kd_keras.methods.tokens import Tokens, tokens_loss
from kd_keras.methods.vid import VID, vid_loss
from kd_keras.methods.wsld import WSLD, wsld_loss

__all__ = (
    "AB", "AT", "BYOT", "CC", "CCKernel", "CRD", "CTKD", "CWD", "DIST", "DKD", "Dense", "FSP", "FT", "FitNet", "KD",
    "KDSVD", "LD", "LSKD", "Logits", "MGD", "MLKD", "Method", "NST", "OFD", "PKD", "PKT", "Paraphrase", "Queue", "RKD",
    "ReviewKD", "SP", "SRRL", "SemCKD", "SimKD", "Taps", "Tokens", "VID", "WSLD", "ab_loss", "at_loss",
    "byot_features_loss", "byot_loss", "cc_kernel_loss", "cc_loss", "crd_in_batch_loss", "crd_loss", "ctkd_loss",
    "cwd_loss", "dense_loss", "dist_loss", "dkd_loss", "fitnet_loss", "fsp_loss", "ft_loss", "jensen_shannon_loss",
    "kd_loss", "kdsvd_loss", "ld_loss", "logits_loss", "logits_mse_loss", "lskd_loss", "mgd_loss", "mlkd_loss",
    "nst_loss", "ofd_loss", "pkd_loss", "pkt_loss", "queue_loss", "reverse_kl_loss", "reviewkd_loss", "rkd_angle_loss",
    "rkd_distance_loss", "rkd_loss", "semckd_loss", "simkd_loss", "simkd_student", "soft_cross_entropy_loss", "sp_loss",
    "srrl_loss", "standardized", "tokens_loss", "vid_loss", "wsld_loss",
)
